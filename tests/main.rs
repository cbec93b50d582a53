//! The integration tests: real clients, real sockets, real processes.

mod fuzz;
mod nbd;
mod tools;
