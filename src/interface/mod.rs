//! The ways in: each folder serves one protocol on the devices and stores of `volume/`, and knows of no other.

pub mod nbd;
