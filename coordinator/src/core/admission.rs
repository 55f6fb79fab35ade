//! Placeholder.
#[derive(Clone, Copy, Debug)]
pub struct Approvals {
    pub concurrency: bool,
    pub task_count: bool,
}

pub fn admit_retry(
    _p: &super::policy::Policy,
    _c: u32,
    _r: u32,
    _a: Approvals,
) -> Result<(), super::refusal::Refusal> {
    Ok(())
}
