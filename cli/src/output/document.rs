//! A JSON document with one array that is too long to be held: it is written in parts. Pure.

use serde_json::Value;

/// What is still to be written of a document.
pub struct Document {
    tail: String,
    empty: bool,
}

impl Document {
    /// Begins a document: what to write first. `value` is an object in which `key` is an empty array, which is the
    /// one to be filled.
    pub fn open(value: &Value, key: &str) -> (String, Self) {
        let text = format!("{value:#}\n");
        // No line of a string begins so: its line breaks are escaped.
        let mark = format!("\n  \"{key}\": [");
        let at = text.find(&mark).map_or(text.len(), |at| at + mark.len());
        let (head, tail) = text.split_at(at);
        (head.to_owned(), Self { tail: tail.to_owned(), empty: true })
    }

    /// The next item of the array.
    pub fn item(&mut self, item: &Value) -> String {
        let comma = if std::mem::take(&mut self.empty) { "" } else { "," };
        let text = format!("{item:#}").replace('\n', "\n    ");
        format!("{comma}\n    {text}")
    }

    /// The rest.
    pub fn close(self) -> String {
        if self.empty { self.tail } else { format!("\n  {}", self.tail) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_parts_make_the_document_as_it_is_written_at_once() {
        for items in
            [vec![], vec![json!({"a": [1], "b": "x\n  \"tasks\": []"})], vec![json!({}), json!({"t": {}})]]
        {
            let whole = |tasks: Value| json!({"a\n  \"tasks\": []": 1, "tasks": tasks, "z": {"tasks": []}});
            let (mut text, mut document) = Document::open(&whole(json!([])), "tasks");
            for item in &items {
                text.push_str(&document.item(item));
            }
            text.push_str(&document.close());
            assert_eq!(text, format!("{:#}\n", whole(json!(items))));
        }
    }
}
