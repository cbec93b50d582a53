//! The integration tests: the release binary, real clients, real sockets, real processes; and an exhaustive model of the
//! replication protocol, which needs none of them.

mod cli;
mod e2e;
mod fuzz;
mod model;
mod nbd;
mod tidy;
mod tools;
