use redb::*;
use std::time::Instant;
const T: TableDefinition<&[u8; 12], &[u8]> = TableDefinition::new("blocks");
const S: TableDefinition<&[u8; 20], &[u8]> = TableDefinition::new("slots");
fn key(g: u64) -> [u8; 12] { let mut k = [0; 12]; k[4..].copy_from_slice(&g.to_be_bytes()); k }
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (group, blocks, quick) = (args[0], args[1], args[2] == 1); let frag = args.len() > 3;
    let path = "/tmp/rb_store_bench.redb";
    let _ = std::fs::remove_file(path);
    let mut b = Builder::new(); b.set_cache_size(64 << 20);
    let db = b.create(path).unwrap();
    // sequential load: runs of min(group,32) blocks
    let t = Instant::now();
    let per_tx = 32768 / group.max(1);
    let mut g = 0; let groups = blocks / group;
    while g < groups {
        let mut tx = db.begin_write().unwrap(); tx.set_quick_repair(quick);
        { let mut tab = tx.open_table(T).unwrap();
          for i in g..(g + per_tx).min(groups) { 
            let runs = if frag { group } else { group.div_ceil(32) };
            let v = vec![7u8; (runs * 28 + group * 4) as usize]; tab.insert(&key(i), &v[..]).unwrap(); } }
        tx.commit().unwrap(); g += per_tx;
    }
    println!("group {group} quick {quick}: seq load {blocks} blocks {:.2}s, file {} MiB", t.elapsed().as_secs_f64(), std::fs::metadata(path).unwrap().len() >> 20);
    // random updates of single blocks: value becomes group runs of one block at steady state; grow by one run up to group
    let mut x = 88172645463325252u64;
    let mut rnd = || { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x };
    for n in [4096u64, 32768, 131072] {
        let t = Instant::now();
        let mut idx: Vec<u64> = (0..n).map(|_| rnd() % blocks).collect(); idx.sort();
        let mut tx = db.begin_write().unwrap(); tx.set_quick_repair(quick);
        { let mut tab = tx.open_table(T).unwrap();
          let mut i = 0; while i < idx.len() { let gg = idx[i] / group; let mut c = 0; while i < idx.len() && idx[i] / group == gg { i += 1; c += 1; }
            let old = tab.get(&key(gg)).unwrap().map(|v| v.value().to_vec()).unwrap_or_default();
            let mut v = old; let cap = (group * 32) as usize; let nl = (v.len() + 32 * c).min(cap.max(32)); v.resize(nl, 1); tab.insert(&key(gg), &v[..]).unwrap(); } }
        tx.commit().unwrap();
        println!("  random updates {n}/commit: {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    }
    for i in 0..3 { let t = Instant::now(); for j in 0..20u8 { let mut tx = db.begin_write().unwrap(); tx.set_quick_repair(quick); { let mut tab = tx.open_table(S).unwrap(); tab.insert(&[i; 20], &[j; 100][..]).unwrap(); } tx.commit().unwrap(); } println!("  small commit {:.2} ms", t.elapsed().as_secs_f64() * 50.0); }
    let t = Instant::now(); let n = 100000; { let r = db.begin_read().unwrap(); let tab = r.open_table(T).unwrap(); for _ in 0..n { tab.get(&key(rnd() % groups)).unwrap(); } } println!("  random gets {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    let t = Instant::now(); for _ in 0..n { let r = db.begin_read().unwrap(); let tab = r.open_table(T).unwrap(); tab.get(&key(rnd() % groups)).unwrap(); } println!("  random gets with txn {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    println!("  file {} MiB", std::fs::metadata(path).unwrap().len() >> 20);
    // crash: copy while open
    std::fs::copy(path, "/tmp/rb_store_bench2.redb").unwrap();
    let t = Instant::now(); let mut b = Builder::new(); b.set_cache_size(64 << 20); let db2 = b.open("/tmp/rb_store_bench2.redb").unwrap(); println!("  open after crash {:.2}s", t.elapsed().as_secs_f64()); drop(db2);
    let t = Instant::now(); drop(db); println!("  close {:.2}s", t.elapsed().as_secs_f64());
    let _ = std::fs::remove_file(path); let _ = std::fs::remove_file("/tmp/rb_store_bench2.redb");
}
