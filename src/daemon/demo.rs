//! x
use crate::base::error::{Fault, Result};
use crate::daemon::offline::{DemoEvent, DemoProof};
pub async fn run(_keep: bool, _tell: &mut (dyn FnMut(DemoEvent) + Send)) -> Result<DemoProof> {
    Err(Fault::failed(""))
}
