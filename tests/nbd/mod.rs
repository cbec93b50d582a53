//! The NBD server before real clients and before none-clients, on a device in memory and over real sockets.

pub mod abuse;
mod clients;
mod framing;
pub mod raw;
mod server;
mod transmission;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use infinit::interface::nbd::{Address, Counts, Export, Exports, Refusal, Server};
use infinit::volume::block::memory::Memory;
use tokio::runtime::Runtime;

use raw::Raw;

/// A server with one export, `disk`, on a Unix socket in a folder of its own.
pub struct Served {
    pub runtime: Runtime,
    pub server: Option<Server>,
    pub memory: Arc<Memory>,
    pub shelf: Arc<Shelf>,
    pub folder: tempfile::TempDir,
}

/// Exports by name.
#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<String, Export>>);

impl Shelf {
    pub fn put(&self, name: &str, export: Export) {
        self.0.lock().unwrap().insert(name.to_owned(), export);
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

impl Exports for Shelf {
    fn list(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn find(&self, name: &str) -> Result<Export, Refusal> {
        self.0.lock().unwrap().get(name).cloned().ok_or(Refusal::Unknown)
    }
}

impl Served {
    pub fn new(memory: Memory) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::unix(folder.path().join("nbd.sock")).unwrap();
        Self::at(memory, &address, folder)
    }

    pub fn at(memory: Memory, address: &Address, folder: tempfile::TempDir) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let memory = Arc::new(memory);
        let shelf = Arc::<Shelf>::default();
        shelf.put("disk", Export::new(memory.clone()));
        let server = runtime.block_on(Server::start(address, shelf.clone())).unwrap();
        Self { runtime, server: Some(server), memory, shelf, folder }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    pub fn uri(&self) -> String {
        self.server().uri("disk")
    }

    pub fn counts(&self) -> Counts {
        self.shelf.find("disk").unwrap().counters.counts()
    }

    /// A connection that has agreed on the export.
    pub fn connect(&self, structured: bool) -> Raw {
        Raw::connect(&self.socket()).unwrap().into_transmission("disk", structured)
    }
}
