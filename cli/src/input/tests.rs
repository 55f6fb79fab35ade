//! Every form of a batch, read from real files.

use std::path::Path;

use proptest::prelude::*;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn read(args: &SourceArgs) -> Result<Input, Error> {
    args.read(&Defaults::default(), Style::Plain)
}

fn sent(args: &SourceArgs) -> String {
    match read(args).unwrap().payload {
        Payload::Json(text) => text,
        Payload::Cards(text) => panic!("cards: {text}"),
    }
}

fn refused(args: &SourceArgs) -> String {
    let error = read(args).unwrap_err();
    assert_eq!(error.exit().code(), 2, "{error:?}");
    error.text().unwrap()
}

fn words(words: &[&str]) -> SourceArgs {
    SourceArgs { words: words.iter().map(|word| (*word).to_owned()).collect(), ..SourceArgs::default() }
}

fn cards(path: String) -> SourceArgs {
    SourceArgs { cards: Some(path), ..SourceArgs::default() }
}

fn each_line(path: String) -> SourceArgs {
    SourceArgs { each_line: Some(path), ..SourceArgs::default() }
}

fn from_jsonl(path: String) -> SourceArgs {
    SourceArgs { from_jsonl: Some(path), ..SourceArgs::default() }
}

fn from_csv(path: String) -> SourceArgs {
    SourceArgs { from_csv: Some(path), ..SourceArgs::default() }
}

/// The lines without the path of the folder, which differs from run to run.
fn without_folder(text: &str, folder: &Folder) -> String {
    text.replace(&format!("{}/", folder.0.path().display()), "")
}

#[test]
fn a_batch_as_json_is_sent_untouched_but_for_the_mark_that_editors_write() {
    let folder = Folder::new();
    for (text, expected) in [
        ("[\"a cat\"]", "[\"a cat\"]"),
        ("\u{feff} \n{\"tasks\": [{\"seed\": 1.0}]}\r\n", " \n{\"tasks\": [{\"seed\": 1.0}]}\r\n"),
    ] {
        assert_eq!(sent(&words(&[&folder.file("batch.json", text)])), expected);
    }
}

#[test]
fn cards_are_sent_untouched() {
    let folder = Folder::new();
    for text in ["> two cards\n\n## 1. Task 1\n", "\u{feff}model: a\r\n", "  - model: a"] {
        let input = read(&cards(folder.file("cards.md", text))).unwrap();
        assert_eq!(input.payload, Payload::Cards(text.to_owned()));
    }
}

#[test]
fn prompts_become_tasks_in_their_order() {
    assert_eq!(sent(&words(&["a white cat", "a \"black\" dog"])), r#"["a white cat","a \"black\" dog"]"#);
    let args = SourceArgs { prompt: vec!["cat".to_owned(), "-1".to_owned()], ..SourceArgs::default() };
    assert_eq!(sent(&args), r#"["cat","-1"]"#);
}

#[test]
fn a_prompt_a_line_and_blank_lines_are_none() {
    let folder = Folder::new();
    let path = folder.file("prompts.txt", "\u{feff}a cat\r\n\n  \na \"dog\"\n[1]\n{\"prompt\"\n一只猫");
    assert_eq!(sent(&each_line(path)), r#"["a cat","a \"dog\"","[1]","{\"prompt\"","一只猫"]"#);
}

#[test]
fn a_task_a_line_goes_as_it_was_written() {
    let folder = Folder::new();
    let path = folder.file("tasks.jsonl", "\"a cat\"\r\n\n {\"prompt\": \"a dog\", \"steps\": 20.0} \n");
    assert_eq!(sent(&from_jsonl(path)), "[\"a cat\",\n{\"prompt\": \"a dog\", \"steps\": 20.0}]");
}

#[test]
fn a_table_goes_with_its_values_as_texts() {
    let folder = Folder::new();
    let path = folder.file("tasks.csv", "prompt,steps,sync\na cat,020,TRUE\na dog,,\n");
    assert_eq!(
        sent(&from_csv(path)),
        r#"[{"prompt":"a cat","steps":"020","sync":"TRUE"},{"prompt":"a dog"}]"#
    );
}

#[test]
fn what_is_wrong_is_named_by_line_column_and_key() {
    let folder = Folder::new();
    let json =
        "[\n  \"a\",\n  {\"seed\": 1, \"promt\": \"b\"},\n  {\"image\": [\"x\", {}], \"sync\": \"yes\"}\n]";
    let text = refused(&words(&[&folder.file("batch.json", json)]));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch has 3 problems; nothing was sent
    batch.json:3:15: tasks[2].promt: unknown key; did you mean prompt?
       ,----
     2 |   "a",
     3 |   {"seed": 1, "promt": "b"},
       :               ^^^^^^^
     4 |   {"image": ["x", {}], "sync": "yes"}
       `----
    batch.json:4:19: tasks[3].image[2]: is neither a string nor a number; send one, or leave it out
       ,----
     3 |   {"seed": 1, "promt": "b"},
     4 |   {"image": ["x", {}], "sync": "yes"}
       :                   ^^
     5 | ]
       `----
    batch.json:4:32: tasks[3].sync: is no flag; send true or false, or leave it out
       ,----
     3 |   {"seed": 1, "promt": "b"},
     4 |   {"image": ["x", {}], "sync": "yes"}
       :                                ^^^^^
     5 | ]
       `----
    "##);
    let text = refused(&words(&[&folder.file("batch.json", "[\n  \"a\",\n]")]));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch cannot be used as it is; nothing was sent
    batch.json:3:1: no JSON: expected value; remove the comma before this
       ,----
     2 |   "a",
     3 | ]
       : ^
       `----
    "##);
    let text = refused(&from_jsonl(folder.file("tasks.jsonl", "\"a\"\n\n{\"modle\": \"m\"}\n7\n")));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch has 2 problems; nothing was sent
    tasks.jsonl:3:2: tasks[2].modle: unknown key; did you mean model?
       ,----
     2 |
     3 | {"modle": "m"}
       :  ^^^^^^^
     4 | 7
       `----
    tasks.jsonl:4:1: tasks[3]: is neither a string nor an object; send a prompt or an object of fields
       ,----
     3 | {"modle": "m"}
     4 | 7
       : ^
       `----
    "##);
    let text = refused(&from_jsonl(folder.file("tasks.jsonl", "\"a\"\n{\"prompt\": \"m\"\nb\n")));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch has 2 problems; nothing was sent
    tasks.jsonl:2:15: tasks[2]: no JSON: it ends too early; is a bracket or a quote missing?
       ,----
     1 | "a"
     2 | {"prompt": "m"
       :               ^
     3 | b
       `----
    tasks.jsonl:3:1: tasks[3]: no JSON: expected value
       ,----
     2 | {"prompt": "m"
     3 | b
       : ^
       `----
    "##);
    let text = refused(&from_csv(folder.file("tasks.csv", "prompt,sync\na,true\nb,1\n")));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch cannot be used as it is; nothing was sent
    tasks.csv:3:3: tasks[2].sync: is no flag; send true or false, or leave it out
       ,----
     2 | a,true
     3 | b,1
       :   ^
       `----
    "##);
    let text = refused(&each_line(folder.file("prompts.txt", "a\n\nb\0\n")));
    insta::assert_snapshot!(without_folder(&text, &folder), @r##"
    error: the batch cannot be used as it is; nothing was sent
    prompts.txt:3:1: tasks[2].prompt: has a NUL character, which no argument can hold; remove it
       ,----
     2 |
     3 | b␀
       : ^^
       `----
    "##);
}

#[test]
fn a_batch_without_tasks_is_refused_with_the_way_out() {
    let folder = Folder::new();
    for (args, expected) in [
        (words(&[&folder.file("a.json", "")]), "a.json: there is no task in it"),
        (words(&[&folder.file("b.json", "[ ]")]), "b.json:1:1: has no task; send at least one"),
        (words(&[&folder.file("c.json", "{\"tasks\":\n []}")]), "c.json:2:2: has no task"),
        (words(&[&folder.file("d.json", "{\"task\": 1}")]), "d.json:1:1: is an object without tasks"),
        (each_line(folder.file("e.txt", "\n \n")), "e.txt: there is no task in it"),
        (from_jsonl(folder.file("f.jsonl", "\n")), "f.jsonl: there is no task in it"),
        (from_csv(folder.file("g.csv", "prompt,model\n,\n")), "g.csv: there is no task in it"),
        (from_csv(folder.file("h.csv", "")), "h.csv: there is no task in it"),
        (cards(folder.file("i.md", " \n")), "muster prefill"),
    ] {
        let text = refused(&args);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn one_form_given_as_another_is_told_which_way_round() {
    let folder = Folder::new();
    for text in ["[\"a cat\"]", "\n {\"tasks\": []}", "\u{feff}["] {
        let text = refused(&cards(folder.file("a", text)));
        assert!(text.contains("holds JSON") && text.contains("leave --cards out"), "{text}");
    }
    for text in ["> two cards", "## 1. Task 1", "- model: a", "prompt,model\na,b\n"] {
        let path = folder.file("b", text);
        let text = refused(&words(&[&path]));
        assert!(text.contains(&format!("--cards {path}")) && text.contains("--from-csv"), "{text}");
    }
    let path = folder.file("c", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n");
    let text = refused(&words(&[&path]));
    assert!(
        text.contains(&format!("{path}:2:1: ")) && text.contains(&format!("--from-jsonl {path}")),
        "{text}"
    );
}

#[test]
fn exactly_one_source_must_be_given() {
    let folder = Folder::new();
    let path = folder.file("batch.json", "[\"a\"]");
    let with_cards = SourceArgs { cards: Some(path.clone()), ..words(&[&path]) };
    let text = refused(&with_cards);
    assert!(text.contains("FILE or PROMPT and --cards (MUSTER_CARDS)"), "{text}");
    let two = SourceArgs { prompt: vec!["a".to_owned()], ..from_csv(path.clone()) };
    let text = refused(&two);
    assert!(text.contains("--prompt (MUSTER_PROMPT) and --from-csv (MUSTER_FROM_CSV)"), "{text}");
    let none = refused(&SourceArgs::default());
    assert!(none.contains("FILE") && none.contains("--cards") && none.contains("prompts"), "{none}");
    // Variables that are set to nothing.
    let empty = || Some(String::new());
    let unset = SourceArgs {
        prompt: vec![String::new()],
        cards: empty(),
        each_line: empty(),
        from_jsonl: empty(),
        from_csv: empty(),
        ..words(&[&path])
    };
    assert_eq!(sent(&unset), "[\"a\"]");
    assert!(refused(&SourceArgs { words: Vec::new(), ..unset }).contains("no batch is named"));
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() {
    let folder = Folder::new();
    assert!(matches!(read(&from_csv("no/such/file".to_owned())), Err(Error::Read { .. })));
    assert!(refused(&words(&["no/such/file"])).contains("no such file: no/such/file"));
    let long = folder.file("long", "");
    let limit = MAX_PAYLOAD_BYTES.to_string();
    std::fs::File::options().write(true).open(&long).unwrap().set_len(MAX_PAYLOAD_BYTES + 1).unwrap();
    assert!(refused(&words(&[&long])).contains(&limit) && refused(&cards(long)).contains(&limit));
    let path = folder.file("bytes", "");
    std::fs::write(Path::new(&path), b"[\"\xff\"]").unwrap();
    assert!(matches!(read(&words(&[&path])), Err(Error::Read { .. })));
    // What a table grows to counts too.
    let many = format!("run_with_defaults,prompt\n{}", "1,\n".repeat(700_000));
    assert!(refused(&from_csv(folder.file("many.csv", &many))).contains("larger than the limit"));
}

#[test]
fn defaults_are_checked_with_the_batch() {
    let defaults = Defaults { model: Some("a\0".to_owned()), ..Defaults::default() };
    let text = words(&["a cat"]).read(&defaults, Style::Plain).unwrap_err().text().unwrap();
    assert!(text.contains("defaults.model: has a NUL"), "{text}");
}

/// Text that is nearly a batch.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "\n",
        "\r\n",
        "\\",
        "\"prompt\"",
        "\"seed\"",
        "\"tasks\"",
        "\"a\"",
        "prompt",
        "image",
        "1",
        " ",
        "猫",
        "\t",
        "\u{0}",
        "true",
        "{\"prompt\":",
        "[{",
        "}]",
        "\"promt\":1",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_is_handed_in_is_taken_or_refused_in_lines_that_name_it(text in nearly()) {
        let defaults = Defaults::default();
        let document = || Document::new("f", text.clone());
        for outcome in [
            json("f", document(), &defaults, Style::Plain),
            jsonl(document(), &defaults, Style::Plain),
            csv(document(), &defaults, Style::Plain),
            each_line_of(document(), &defaults),
        ] {
            match outcome {
                Ok(Input { payload: Payload::Json(sent), .. }) => {
                    prop_assert!(parse_batch_json(&sent, &defaults).is_ok());
                }
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(error) => {
                    let said = error.text().unwrap();
                    prop_assert!(said.contains("f:") || said.contains("f is not JSON"), "{said}");
                    prop_assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
                }
            }
        }
    }
}

fn each_line_of(document: Document, defaults: &Defaults) -> Result<Input, Error> {
    super::each_line(document, defaults, Style::Plain)
}
