//! The requests of users into the core's terms.

use muster_proto::{TaskIndex, v1};

use tonic::Status;

use crate::core::{api_key, card, catalog::Catalog, options, payload, refusal::Refusal};

use super::super::status;
use super::{MAX_API_KEY_BYTES, MAX_REASON_CHARS, MAX_REQUEST_ID_CHARS, Violation};

/// Most entries that a list of tasks may have.
const MAX_TASK_INDEXES: usize = 1_000_000;

/// A task's number. Whether the batch has it is for others to see.
pub(crate) fn task_index(index: i32) -> Result<TaskIndex, Violation> {
    counted_from_one(index).ok_or_else(|| not_from_one("task_index", index))
}

/// The tasks of a list, each once, in order.
pub(crate) fn task_indexes(list: &[i32]) -> Result<Vec<TaskIndex>, Violation> {
    if list.len() > MAX_TASK_INDEXES {
        let description = format!("has {} entries; at most {MAX_TASK_INDEXES} are allowed", list.len());
        return Err(Violation::new("task_indexes", description));
    }
    let mut indexes = Vec::with_capacity(list.len());
    for (place, &index) in (1_usize..).zip(list) {
        let field = || not_from_one(&format!("task_indexes[{place}]"), index);
        indexes.push(counted_from_one(index).ok_or_else(field)?);
    }
    indexes.sort_unstable();
    indexes.dedup();
    Ok(indexes)
}

fn counted_from_one(index: i32) -> Option<TaskIndex> {
    u32::try_from(index).ok().filter(|&index| index > 0).map(TaskIndex)
}

fn not_from_one(field: &str, index: i32) -> Violation {
    Violation::new(field, format!("is {index}; tasks count from 1"))
}

/// A request id within its bound; empty is none.
pub(crate) fn request_id(text: &str) -> Result<Option<&str>, Violation> {
    let length = text.chars().count();
    if length > MAX_REQUEST_ID_CHARS {
        let description = format!("has {length} characters; at most {MAX_REQUEST_ID_CHARS} are allowed");
        return Err(Violation::new("request_id", description));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// The reason of a cancellation within its bound.
pub(crate) fn reason(text: &str) -> Result<(), Violation> {
    let length = text.chars().count();
    if length > MAX_REASON_CHARS {
        let description = format!("has {length} characters; at most {MAX_REASON_CHARS} are allowed");
        return Err(Violation::new("reason", description));
    }
    Ok(())
}

/// The forms in which a batch can be sent.
pub(crate) struct Payload<'a> {
    pub(crate) batch_json: &'a str,
    pub(crate) tasks: &'a [v1::TaskInput],
    pub(crate) cards: &'a str,
    pub(crate) defaults: Option<&'a v1::TaskDefaults>,
}

/// Reads the one form that is given.
pub(crate) fn payload(given: Payload<'_>, catalog: &Catalog) -> Result<payload::Payload, Status> {
    let Payload { batch_json, tasks, cards, defaults: inherited } = given;
    let inherited = defaults(inherited);
    let payload = match (batch_json.is_empty(), tasks.is_empty(), cards.is_empty()) {
        (false, true, true) => payload::parse_batch_json(batch_json, &inherited),
        (true, false, true) => payload::from_tasks(tasks.iter().map(task_input).collect(), &inherited),
        (true, true, false) => card::read(cards, &inherited, catalog),
        (true, true, true) => {
            let missing = "is missing, and so are tasks and cards_markdown; give one of the three";
            return Err(status::invalid("batch_json", missing));
        }
        (has_no_json, has_no_tasks, _) => {
            let (field, other) = match (has_no_json, has_no_tasks) {
                (false, false) => ("batch_json", "tasks"),
                (false, true) => ("batch_json", "cards_markdown"),
                (true, _) => ("tasks", "cards_markdown"),
            };
            return Err(status::invalid(field, &format!("and {other} are both given; give one of them")));
        }
    };
    payload.map_err(|violations| status::refusal(&Refusal::Invalid(violations)))
}

/// How the batch is carried out: what the request says, else what its payload says.
pub(crate) fn options(
    wire: Option<&v1::BatchOptions>,
    payload: options::BatchOptions,
) -> Result<options::BatchOptions, Status> {
    match super::options::requested(wire) {
        Ok(requested) => Ok(requested.or(payload)),
        Err(violations) => Err(status::refusal(&Refusal::Invalid(violations))),
    }
}

/// A key that an environment can hold; empty, or a placeholder for one, is none. The description never shows it.
pub(crate) fn api_key(text: &str) -> Result<Option<&str>, Violation> {
    if text.len() > MAX_API_KEY_BYTES {
        let description = format!("is longer than {MAX_API_KEY_BYTES} bytes; give the key alone");
        return Err(Violation::new("api_key", description));
    }
    if text.contains(['\0', '\n', '\r']) {
        return Err(Violation::new("api_key", "has a line break or a NUL in it; give the key alone"));
    }
    Ok(api_key::usable(text))
}

/// What tasks inherit. An empty text is one that was not given.
pub(crate) fn defaults(wire: Option<&v1::TaskDefaults>) -> payload::Defaults {
    let Some(wire) = wire else { return payload::Defaults::default() };
    payload::Defaults {
        model: given(&wire.model),
        scene: given(&wire.scene),
        task: given(&wire.task),
        run_with_defaults: wire.run_with_defaults,
        sync: wire.sync,
    }
}

/// One task of the typed form.
pub(crate) fn task_input(wire: &v1::TaskInput) -> payload::TaskInput {
    payload::TaskInput {
        prompt: given(&wire.prompt),
        task: given(&wire.task),
        model: given(&wire.model),
        scene: given(&wire.scene),
        label: given(&wire.label),
        title: given(&wire.title),
        card_input: given(&wire.card_input),
        run_with_defaults: wire.run_with_defaults,
        confirm_run: wire.confirm_run,
        param_help: wire.param_help,
        image: wire.image.clone(),
        audio: wire.audio.clone(),
        video: wire.video.clone(),
        aspect_ratio: given(&wire.aspect_ratio),
        resolution: given(&wire.resolution),
        steps: given(&wire.steps),
        duration: given(&wire.duration),
        seed: given(&wire.seed),
        random_seed: wire.random_seed,
        model_name: given(&wire.model_name),
        width: given(&wire.width),
        height: given(&wire.height),
        param: wire.param.clone(),
        output: given(&wire.output),
        sync: wire.sync,
        time_limit: wire.time_limit.as_ref().map(super::options::given_ms),
        retry: wire.retry.as_ref().map(super::options::given_retry),
    }
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_count_from_one() {
        assert_eq!(task_indexes(&[3, 1, 3]), Ok(vec![TaskIndex(1), TaskIndex(3)]));
        for bad in [0, -1, i32::MIN] {
            let violation = task_indexes(&[1, bad]).unwrap_err();
            assert_eq!(violation.field, "task_indexes[2]");
        }
    }

    #[test]
    fn texts_are_held_to_their_bounds() {
        assert_eq!(request_id(""), Ok(None));
        assert_eq!(request_id(&"é".repeat(MAX_REQUEST_ID_CHARS)).map(|id| id.is_some()), Ok(true));
        assert!(request_id(&"x".repeat(MAX_REQUEST_ID_CHARS + 1)).is_err());
        assert!(reason(&"x".repeat(MAX_REASON_CHARS + 1)).is_err());
    }

    #[test]
    fn a_key_that_is_refused_is_not_repeated() {
        assert_eq!(api_key(""), Ok(None));
        assert_eq!(api_key("sk-1"), Ok(Some("sk-1")));
        assert_eq!(api_key("YOUR_API_KEY"), Ok(None));
        for bad in ["sk-\n1", "sk-\r1", "sk-\u{0}1", &"s".repeat(MAX_API_KEY_BYTES + 1)] {
            let violation = api_key(bad).unwrap_err();
            assert!(violation.field == "api_key" && !violation.description.contains("sk-"));
        }
    }

    #[test]
    fn exactly_one_form_of_payload_is_taken() {
        let catalog = Catalog::builtin();
        let read = |batch_json, tasks, cards| {
            payload(Payload { batch_json, tasks, cards, defaults: None }, &catalog)
        };
        let typed = [v1::TaskInput { prompt: "a".into(), ..v1::TaskInput::default() }];
        assert_eq!(read("[\"a\"]", &[], "").unwrap(), read("", &typed, "").unwrap());
        for (json, tasks, cards, fields) in [
            ("[\"a\"]", &typed[..], "", ["batch_json", "tasks"]),
            ("[\"a\"]", &[], "- model: m", ["batch_json", "cards_markdown"]),
            ("", &typed, "- model: m", ["tasks", "cards_markdown"]),
            ("[\"a\"]", &typed, "- model: m", ["batch_json", "tasks"]),
            ("", &[], "", ["batch_json", "cards_markdown"]),
            ("{", &[], "", ["batch_json", "JSON"]),
        ] {
            let status = read(json, tasks, cards).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(fields.iter().all(|field| status.message().contains(field)), "{}", status.message());
        }
    }
}
