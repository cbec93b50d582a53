//! The integration tests: the release binary, driven from outside.

mod cli;
mod tidy;
