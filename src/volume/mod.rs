//! The storage logics: what a volume is to its user. This layer opens neither sockets nor files.

pub mod block;
