//! Which line of a card each input of a contract belongs to.
//!
//! What it does not do: look at the task.

use super::keys::{self, Key};
use crate::core::contract::{Contract, FieldKind, InputField};

/// The key of each of a contract's fields, in its order; `None` for one that only a `param` can set. A key
/// belongs to one field at most.
pub(super) fn keys(contract: &Contract) -> Vec<Option<Key>> {
    let mut keys = vec![None; contract.fields.len()];
    // What is sure goes before what is guessed from a label, wherever it stands.
    for rule in [sure, guessed] {
        for (place, field) in contract.fields.iter().enumerate() {
            if keys[place].is_none()
                && let Some(key) = rule(field)
                && !keys.contains(&Some(key))
            {
                keys[place] = Some(key);
            }
        }
    }
    keys
}

fn sure(field: &InputField) -> Option<Key> {
    match field.kind {
        FieldKind::Images => Some(Key::Image),
        FieldKind::Audios => Some(Key::Audio),
        FieldKind::Videos => Some(Key::Video),
        FieldKind::Seed => Some(Key::Seed),
        FieldKind::MediaSlot => None,
        _ => keys::field_of_input(&field.name).filter(|key| key.field() == field.name),
    }
}

fn guessed(field: &InputField) -> Option<Key> {
    match field.kind {
        FieldKind::Images
        | FieldKind::Audios
        | FieldKind::Videos
        | FieldKind::Seed
        | FieldKind::MediaSlot => None,
        _ => keys::field_of_input(&field.name).or_else(|| keys::field_of_input(&field.label)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, label: &str, kind: FieldKind) -> InputField {
        InputField { name: name.into(), label: label.into(), kind, ..InputField::default() }
    }

    #[test]
    fn a_key_belongs_to_the_first_field_and_names_go_before_labels() {
        let contract = Contract {
            fields: vec![
                field("text", "提示词", FieldKind::Text),
                field("prompt", "", FieldKind::Text),
                field("first", "", FieldKind::Images),
                field("second", "", FieldKind::Images),
                field("noise", "", FieldKind::Seed),
                field("seed", "", FieldKind::Number),
                field("x", "视频时长", FieldKind::Slider),
                field("93:Load.image", "image", FieldKind::MediaSlot),
                field("cfg", "CFG", FieldKind::Number),
            ],
            ..Contract::default()
        };
        assert_eq!(
            keys(&contract),
            [
                None,
                Some(Key::Prompt),
                Some(Key::Image),
                None,
                Some(Key::Seed),
                None,
                Some(Key::Duration),
                None,
                None
            ]
        );
    }
}
