//! What clients may see: each 512-byte sector is a register, and its history must be linearizable.
//!
//! The test is that of Gibbons and Korach ("Testing shared memories", 1997), on line: the write of a value and all reads
//! of it are a cluster; from its first end to its last begin the value certainly stood, so of two clusters with such a
//! zone none may reach into the other. A write that was never answered has no end until somebody read it: once observed
//! it counts as answered. A power loss that may lawfully take answered writes begins a new cell: from that epoch on the
//! sector has the value of the history that was chosen.

use infinit::base::id::Epoch;

use super::workload::{SECTOR, Tag};

/// A sector with more values than this is gone through for what no read may see any more.
const CLUSTERS_KEPT: usize = 6;

/// One value's write, and what is known of when it stood.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    /// The operation that wrote it; 0 is what was there before.
    op: Tag,
    /// What a read sees: the operation, or 0 for zeroes.
    value: Tag,
    /// The epoch of the writer that was asked.
    epoch: Epoch,
    written_from: u64,
    first_end: u64,
    last_begin: u64,
}

impl Cluster {
    /// As it is once a read of it that began at `begin` was answered now.
    fn seen(&self, begin: u64, now: u64) -> Cluster {
        Cluster { first_end: self.first_end.min(now), last_begin: self.last_begin.max(begin), ..*self }
    }

    fn conflicts(&self, other: &Cluster) -> bool {
        let forward = self.first_end < self.last_begin;
        let others = other.first_end < other.last_begin;
        (forward || others) && self.first_end < other.last_begin && other.first_end < self.last_begin
    }
}

/// The history of one sector from an epoch on.
#[derive(Clone, Debug)]
struct Cell {
    from: Epoch,
    clusters: Vec<Cluster>,
}

#[derive(Default)]
pub struct Registers {
    /// By sector; none of one that nobody asked for yet.
    sectors: Vec<Vec<Cell>>,
}

fn initial(from: Epoch, value: Tag) -> Cell {
    Cell { from, clusters: vec![Cluster { op: 0, value, epoch: from, written_from: 0, first_end: 0, last_begin: 0 }] }
}

impl Registers {
    /// An operation was handed to a writer of this epoch: from now on its value may be read.
    pub fn submitted(&mut self, now: u64, epoch: Epoch, op: Tag, zeroes: bool, position: u64, length: u64) {
        let value = if zeroes { 0 } else { op };
        for sector in position / SECTOR..(position + length).div_ceil(SECTOR) {
            let cluster = Cluster { op, value, epoch, written_from: now, first_end: u64::MAX, last_begin: now };
            self.cell(sector, epoch).clusters.push(cluster);
        }
    }

    /// An operation was refused before it began: nobody may ever see it.
    pub fn void(&mut self, epoch: Epoch, op: Tag, position: u64, length: u64) {
        for sector in position / SECTOR..(position + length).div_ceil(SECTOR) {
            self.cell(sector, epoch).clusters.retain(|cluster| cluster.op != op);
        }
    }

    /// An operation was answered.
    pub fn answered(&mut self, now: u64, epoch: Epoch, op: Tag, position: u64, length: u64) -> Result<(), String> {
        for sector in position / SECTOR..(position + length).div_ceil(SECTOR) {
            let cell = self.cell(sector, epoch);
            let Some(at) = cell.clusters.iter().position(|cluster| cluster.op == op) else { continue };
            cell.clusters[at].first_end = cell.clusters[at].first_end.min(now);
            cell.check(sector, at)?;
        }
        Ok(())
    }

    /// A read of an epoch's writer that began at `begin` was answered now with this value of a sector.
    pub fn read(&mut self, begin: u64, now: u64, epoch: Epoch, sector: u64, value: Tag) -> Result<(), String> {
        let cell = self.cell(sector, epoch);
        let (mut wrong, mut lawful, mut lawful_count) = (None, 0, 0);
        for (at, written) in cell.clusters.iter().enumerate().filter(|(_, cluster)| cluster.value == value) {
            let cluster = written.seen(begin, now);
            match cell.conflict(at, &cluster) {
                None => (lawful, lawful_count) = (at, lawful_count + 1),
                Some(other) => wrong = Some((cluster, *other)),
            }
        }
        match (lawful_count, wrong) {
            (1, _) => cell.clusters[lawful] = cell.clusters[lawful].seen(begin, now),
            (0, Some((cluster, other))) => {
                return Err(format!(
                    "a read of sector {sector} that began at {begin} saw {value}, which does not fit: {cluster:?} \
                     against {other:?}"
                ));
            }
            (0, None) => {
                return Err(format!("a read of sector {sector} in epoch {epoch} saw {value}, which may not be there"));
            }
            _ => {}
        }
        Ok(())
    }

    /// From this epoch on the sector begins with what the chosen history has: the rest was lawfully lost. What was asked
    /// of this epoch's writer, or of a later one, is still to come.
    pub fn restart(&mut self, epoch: Epoch, sector: u64, value: Tag) {
        let cells = self.cells(sector);
        let Some(last) = cells.last_mut() else { return };
        let mut fresh = initial(epoch, value);
        let is_later = |cluster: &Cluster| cluster.op != 0 && cluster.epoch >= epoch;
        fresh.clusters.extend(last.clusters.iter().filter(|cluster| is_later(cluster)));
        last.clusters.retain(|cluster| !is_later(cluster));
        cells.push(fresh);
    }

    /// Forgets what no read that began at `oldest` or later may see: what was certainly overwritten before. Such a read
    /// is unlawful with it and without it.
    pub fn prune(&mut self, oldest: u64) {
        let last_cells = self.sectors.iter_mut().filter_map(|cells| cells.last_mut());
        for cell in last_cells.filter(|cell| cell.clusters.len() > CLUSTERS_KEPT) {
            let last = cell.clusters.iter().filter(|c| c.first_end < oldest).map(|c| c.written_from).max();
            let Some(last) = last else { continue };
            cell.clusters.retain(|cluster| cluster.first_end >= last);
        }
    }

    fn cells(&mut self, sector: u64) -> &mut Vec<Cell> {
        let at = sector as usize;
        if at >= self.sectors.len() {
            self.sectors.resize_with(at + 1, Vec::new);
        }
        let cells = &mut self.sectors[at];
        if cells.is_empty() {
            cells.push(initial(Epoch(0), 0));
        }
        cells
    }

    fn cell(&mut self, sector: u64, epoch: Epoch) -> &mut Cell {
        let cells = self.cells(sector);
        let at = cells.iter().rposition(|cell| cell.from <= epoch).unwrap_or(0);
        &mut cells[at]
    }
}

impl Cell {
    /// What of the others does not fit with the cluster at this place, if it were this.
    fn conflict(&self, at: usize, cluster: &Cluster) -> Option<&Cluster> {
        let others = self.clusters.iter().enumerate().filter(|(other, _)| *other != at);
        others.map(|(_, other)| other).find(|other| cluster.conflicts(other))
    }

    fn check(&self, sector: u64, at: usize) -> Result<(), String> {
        let cluster = &self.clusters[at];
        match self.conflict(at, cluster) {
            None => Ok(()),
            Some(other) => Err(format!("sector {sector}: {cluster:?} does not fit with {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Epoch = Epoch(1);

    fn write(registers: &mut Registers, op: Tag, begin: u64, end: u64) {
        registers.submitted(begin, E, op, false, 0, SECTOR);
        registers.answered(end, E, op, 0, SECTOR).unwrap();
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut registers = Registers::default();
        write(&mut registers, 1, 0, 10);
        write(&mut registers, 2, 20, 30);
        assert!(registers.read(40, 50, E, 0, 2).is_ok());
        assert!(registers.read(60, 70, E, 0, 1).is_err());
    }

    #[test]
    fn a_pending_write_may_or_may_not_be_there_until_it_was_seen() {
        let mut registers = Registers::default();
        write(&mut registers, 1, 0, 10);
        registers.submitted(20, E, 2, false, 0, SECTOR);
        registers.read(30, 40, E, 0, 1).unwrap();
        registers.read(50, 60, E, 0, 2).unwrap();
        assert!(registers.read(70, 80, E, 0, 1).is_err());
        assert!(registers.read(70, 80, E, 0, 3).is_err(), "a value that nobody wrote");
    }

    #[test]
    fn zeroes_may_be_of_any_trim_that_fits() {
        let mut registers = Registers::default();
        registers.read(1, 2, E, 0, 0).unwrap();
        write(&mut registers, 1, 5, 10);
        registers.submitted(20, E, 2, true, 0, SECTOR);
        registers.read(30, 40, E, 0, 0).unwrap();
        assert!(registers.read(50, 60, E, 0, 1).is_err());
    }

    #[test]
    fn a_lawful_loss_begins_a_new_history() {
        let mut registers = Registers::default();
        write(&mut registers, 1, 0, 10);
        write(&mut registers, 2, 20, 30);
        registers.submitted(35, Epoch(3), 4, false, 0, SECTOR);
        registers.restart(Epoch(2), 0, 1);
        registers.read(40, 50, Epoch(2), 0, 1).unwrap();
        assert!(registers.read(60, 70, Epoch(2), 0, 2).is_err());
        registers.read(80, 90, Epoch(3), 0, 4).unwrap();
    }

    #[test]
    fn a_refused_write_must_not_be_seen() {
        let mut registers = Registers::default();
        registers.submitted(0, E, 1, false, 0, SECTOR);
        registers.void(E, 1, 0, SECTOR);
        assert!(registers.read(5, 6, E, 0, 1).is_err());
    }
}
