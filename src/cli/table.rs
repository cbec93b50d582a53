//! Tables as people read them: no borders, a header row, colors for how things stand.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, TableStyle};

use crate::cli::terminal::{Terminal, clean};
use crate::daemon::api::scrub::ScrubState;
use crate::daemon::api::{NodeState, ReplicaState, SiloState, VolumeState};

/// How good the news in a cell are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
}

/// A table of text, each column as wide as its widest cell.
pub struct Grid {
    table: Table,
}

impl Grid {
    /// A table with these column names.
    pub fn new(terminal: &Terminal, header: &[&str]) -> Self {
        let mut grid = Self::bare(terminal);
        grid.table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        grid
    }

    /// A table without a header: names and values.
    pub fn bare(terminal: &Terminal) -> Self {
        let mut table = Table::new();
        table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
        if terminal.colored() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table }
    }

    /// Adds a row; the number of cells is that of the header.
    pub fn row(&mut self, cells: Vec<(String, Tone)>) {
        self.table.add_row(cells.into_iter().map(|(text, tone)| {
            let cell = Cell::new(clean(&text)).set_alignment(CellAlignment::Left);
            match tone {
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Warning => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red),
                Tone::Faint => cell.add_attribute(Attribute::Dim),
            }
        }));
    }

    /// Adds a name and its value, unless there is none.
    pub fn fact(&mut self, name: &str, value: impl Into<Option<String>>) {
        if let Some(value) = value.into() {
            self.row(vec![(name.to_owned(), Tone::Faint), plain(value)]);
        }
    }

    /// The lines, each with its end.
    pub fn finish(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell without news.
pub fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A cell that may be empty, shown as a dash.
pub fn optional(text: Option<String>) -> (String, Tone) {
    text.map_or_else(|| ("-".to_owned(), Tone::Faint), plain)
}

/// A state whose word has a tone.
pub trait Toned: ToString {
    fn tone(&self) -> Tone;

    fn cell(&self) -> (String, Tone) {
        (self.to_string(), self.tone())
    }
}

impl Toned for NodeState {
    fn tone(&self) -> Tone {
        match self {
            NodeState::Up => Tone::Good,
            NodeState::Joining | NodeState::Unknown => Tone::Warning,
            NodeState::Down => Tone::Bad,
        }
    }
}

impl Toned for SiloState {
    fn tone(&self) -> Tone {
        match self {
            SiloState::Up => Tone::Good,
            SiloState::Down | SiloState::Unknown => Tone::Warning,
            SiloState::Damaged | SiloState::Foreign | SiloState::Stalled => Tone::Bad,
        }
    }
}

impl Toned for ScrubState {
    fn tone(&self) -> Tone {
        match self {
            ScrubState::Done => Tone::Good,
            ScrubState::Waiting | ScrubState::Reading => Tone::Plain,
            ScrubState::Repairing | ScrubState::NotBegun => Tone::Warning,
            ScrubState::Failed | ScrubState::Unreachable => Tone::Bad,
        }
    }
}

impl Toned for VolumeState {
    fn tone(&self) -> Tone {
        match self {
            VolumeState::Healthy => Tone::Good,
            VolumeState::Degraded => Tone::Warning,
            VolumeState::Suspended => Tone::Bad,
            VolumeState::Detached => Tone::Faint,
        }
    }
}

impl Toned for ReplicaState {
    fn tone(&self) -> Tone {
        match self {
            ReplicaState::UpToDate => Tone::Good,
            ReplicaState::CatchingUp | ReplicaState::Unknown => Tone::Warning,
            ReplicaState::Idle => Tone::Plain,
            ReplicaState::Down | ReplicaState::Damaged | ReplicaState::Foreign | ReplicaState::Stalled => Tone::Bad,
        }
    }
}
