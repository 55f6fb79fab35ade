//! Placeholder.
#[derive(Clone, Copy, Debug)]
pub struct SystemLimits {
    pub max_concurrency: u32,
    pub max_tasks: u32,
}
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub max_concurrency: u32,
    pub max_tasks: u32,
    pub system: SystemLimits,
}
