//! Panics of a library on bytes that it cannot make sense of, which are an error of these bytes and no broken invariant.
//!
//! The daemon ends at any panic, by a hook that comes before anything is unwound; it asks [`is_contained`] first.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// What this returns; none if it panicked. What it worked on must not be used any more then.
pub fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    CONTAINED.set(before);
    done
}

/// Whether a panic on this thread is one that [`contain`] catches.
pub fn is_contained() -> bool {
    CONTAINED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_contained_once() {
        assert_eq!(contain(is_contained), Some(true));
        assert_eq!(contain(|| -> bool { panic!("as expected") }), None);
        assert!(!is_contained());
    }
}
