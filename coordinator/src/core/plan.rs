//! Placeholder.
use serde::{Deserialize, Serialize};
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub label: String,
    pub model: String,
    pub prompt: String,
}
