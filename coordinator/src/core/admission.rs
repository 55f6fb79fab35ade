//! Placeholder.
#[derive(Clone, Copy, Debug)]
pub struct Approvals {
    pub concurrency: bool,
    pub task_count: bool,
}
