//! Bugs of writing: answers too early, too late or for the wrong reason.

use infinit::base::mutant::Mutant;

use super::{Case, general, hunt};

const CASES: &[Case] = &[general(Mutant::AckBeforeMajority, 1, 20)];

#[test]
fn bugs_of_writing_are_found() {
    hunt(CASES);
}
