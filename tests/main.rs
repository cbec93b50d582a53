//! The integration tests: the release binary, real clients, real sockets, real processes.

mod cli;
mod e2e;
mod fuzz;
mod nbd;
mod tidy;
mod tools;
