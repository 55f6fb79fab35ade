//! Placeholder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("placeholder")]
    Placeholder,
}
