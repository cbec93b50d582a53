//! The error codes of the protocol, and the one place where the device's errors become them.

use crate::volume::block::device::IoError;

/// An error as the protocol knows it (section "Error values"); the numbers are those of Linux on every platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// A change of a read-only export.
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpc = 28,
    /// A read that may not be split and is too large.
    Overflow = 75,
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// Whether a request adds bytes: only those may be answered with "no space".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Adds,
    Other,
}

/// The code for an error of the device.
pub fn errno(error: &IoError, effect: Effect) -> Errno {
    match error {
        IoError::OutOfRange => out_of_range(effect),
        IoError::NoSpace => Errno::NoSpc,
        IoError::ReadOnly => Errno::Perm,
        // An abandoned request's client is gone and reads no answer.
        IoError::Shutdown | IoError::Abandoned => Errno::Shutdown,
        IoError::TimedOut | IoError::Unreadable(_) => Errno::Io,
    }
}

/// Beyond the end there is no space to write to; to anything else it is simply a wrong request.
pub fn out_of_range(effect: Effect) -> Errno {
    match effect {
        Effect::Adds => Errno::NoSpc,
        Effect::Other => Errno::Inval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_device_has_its_code() {
        let table = [
            (IoError::OutOfRange, Effect::Adds, 28),
            (IoError::OutOfRange, Effect::Other, 22),
            (IoError::NoSpace, Effect::Adds, 28),
            (IoError::ReadOnly, Effect::Adds, 1),
            (IoError::Shutdown, Effect::Other, 108),
            (IoError::Abandoned, Effect::Adds, 108),
            (IoError::TimedOut, Effect::Adds, 5),
            (IoError::Unreadable("checksum".into()), Effect::Other, 5),
        ];
        for (error, effect, code) in table {
            assert_eq!(errno(&error, effect).code(), code, "{error}");
        }
    }
}
