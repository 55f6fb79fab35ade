//! What editors, chats and tired people do to cards: it is understood as meant, or refused, and never run as
//! something else.

use super::*;

fn refused(text: &str) -> Vec<String> {
    let Err(violations) = read(text, &Defaults::default(), &Catalog::builtin()) else {
        panic!("this was read:\n{text}")
    };
    violations.iter().map(ToString::to_string).collect()
}

fn one(line: &str) -> TaskSpec {
    specs(&read_back(&format!("- model: bpro-t2i\n{line}\n"))).remove(0)
}

#[test]
fn a_second_line_belongs_to_a_text_and_to_nothing_else() {
    for (text, line) in [
        ("- image:\n  - a.png\n  - b.png", 3),
        ("- image: a.png\n  b.png", 3),
        ("- resolution: 4K\nduration = 8", 3),
        ("- label: a\n\nsome words", 4),
    ] {
        let problems = refused(&format!("- model: bpro-t2i\n{text}\n"));
        assert!(problems[0].contains(&format!("line {line}: ")), "{problems:?} of {text:?}");
        assert!(problems[0].contains("one line"), "{problems:?}");
    }
    assert_eq!(one("- prompt: a\n  - b\n  c").prompt, "a\n- b\nc");
}

#[test]
fn no_line_of_a_text_is_lost() {
    for line in ["注意：不要出现文字", "- Warning: no text", "Name: Anna", "  price: 5 dollars", "# Scene"]
    {
        let problems = refused(&format!("- model: bpro-t2i\n- prompt: a poster\n{line}\nmore\n"));
        assert!(problems[0].contains("cards[1].prompt line 3: "), "{problems:?} of {line:?}");
    }
    assert_eq!(one("- prompt: x\n#red\n\n  - field: text; from you\n  - missing: y").prompt, "x\n#red");
}

#[test]
fn a_line_that_is_commented_or_struck_out_is_no_fact() {
    for line in [
        "<!-- resolution: 4K -->",
        "// resolution: 4K",
        "~~- resolution: 4K~~",
        "- ~~resolution~~: 4K",
        "; resolution: 4K",
        "% resolution: 4K",
        "(resolution: 4K)",
        "（resolution：4K）",
        "[resolution: 4K]",
        "- resolution: 4K <!-- was 2K -->",
        "- resolution: 4K # was 2K",
        "- resolution: 4K // was 2K",
        "<!--\n- resolution: 4K\n-->",
    ] {
        let problems = refused(&format!("- model: bpro-t2i\n- seed: 1\n{line}\n"));
        assert!(problems[0].contains("line 3: "), "{problems:?} of {line:?}");
        let problems = refused(&format!("## 1. a\n{line}\n- model: bpro-t2i\n"));
        assert!(problems[0].contains("line 2: "), "{problems:?} of {line:?}");
    }
    for line in ["# resolution: 4K", "> resolution: 4K", "### resolution: 4K"] {
        assert_eq!(one(line).resolution, "");
    }
}

#[test]
fn decoration_around_a_line_is_taken_off() {
    for line in [
        "`aspect_ratio: 16:9`",
        "- `aspect_ratio: 16:9`",
        "- *aspect_ratio: 16:9*",
        "- **`aspect_ratio`**: 16:9",
        "_aspect_ratio: 16:9_",
        "* **aspect_ratio: 16:9**",
        "• aspect_ratio: 16:9",
        "【比例】：16:9",
        "\"aspect_ratio\": 16:9",
        "*aspect_ratio: 16:9",
        "-\taspect_ratio:\t16:9\t",
        "\u{a0}– aspect_ratio\u{a0}:\u{3000}16:9",
        "比例：16：9",
        "比例：１６：９",
        "比例：16 : 9",
    ] {
        assert_eq!(one(line).aspect_ratio, "16:9", "{line}");
    }
}

#[test]
fn a_value_that_was_decorated_or_mangled_is_refused() {
    for line in [
        "- resolution: **4K**",
        "- resolution: `4K`",
        "- resolution: '4K'",
        "- resolution: “4K”",
        "- resolution: 「4K」",
        "- resolution: 4K,",
        "- resolution: 720\\*1280",
        "- resolution: 4K\u{200b}",
        "- resolution: 1024×768",
        "- resolution: none",
        "- resolution: -",
        "- 规格：无",
        "- model_name: _pro_",
        "- prompt: “a\\nb”",
        "- prompt: “a\\nb\"",
        "- prompt: tea &amp; cake",
        "- prompt: a &lt;small&gt; table",
        "- prompt: *a lighthouse*",
        "- prompt: a\u{202e}b",
        "- image: <https://h/a.png>",
        "- image: [https://h/a.png](https://h/a.png)",
        "- image: [a.png](https://h/a.png)",
        "- image: ![](a.png)",
        "- image: https://h/a.png?a=1&amp;b=2",
        "- image: a.png, b.png",
        "- 图片：a.png，b.png",
        "- 图片：无",
        "- param: `cfg=3`",
        "- output: 'out dir'",
    ] {
        let problems = refused(&format!("- model: bpro-t2i\n{line}\n"));
        assert!(problems[0].contains("line 2: "), "{problems:?} of {line:?}");
    }
    let problems = refused("- model: `kling`\n");
    assert!(problems[0].contains("cards[1].model line 1: "), "{problems:?}");
}

#[test]
fn ordinary_texts_are_not_refused() {
    for prompt in [
        "“你好”，一张海报，写着“再见”",
        "it's a 'quoted' word",
        "tea & cake <small> 5 < 6",
        "a `b` c",
        "*a* and *b*",
        "say \"hi\"",
        "1 // 2 # 3",
        "C:\\temp \\(anime\\)",
        "无",
        "👩\u{200d}🚀",
        "a\tb",
        "a [link](x)",
    ] {
        assert_eq!(one(&format!("- prompt: {prompt}")).prompt, prompt);
    }
    assert_eq!(one("- image: my,own\\a (1).png\n- resolution: 1080P (HD)").resolution, "1080P (HD)");
}

#[test]
fn a_text_that_an_editor_wrapped_is_refused() {
    let task = r#"[{"model": "bpro-t2i", "prompt": "a lighthouse on a long and rocky coast at dusk, in the storm, its label red and its lamp alight"}]"#;
    for lang in LANGS {
        let text = text(&tasks(task), Ok(&contract()), lang);
        for width in [60, 72, 80, 100] {
            let mut wrapped = String::new();
            for line in text.lines() {
                let mut length = 0;
                for word in line.split_inclusive(' ') {
                    if length > 0 && length + word.len() > width {
                        wrapped.push_str("\n  ");
                        length = 2;
                    }
                    wrapped.push_str(word);
                    length += word.len();
                }
                wrapped.push('\n');
            }
            let problems = refused(&wrapped);
            assert!(problems.iter().any(|problem| problem.contains("wrap")), "{problems:?} of\n{wrapped}");
        }
    }
}

#[test]
fn an_option_is_shown_as_it_is_to_be_written() {
    let mut contract = contract();
    contract.fields[2].options = vec!["1024x1024".into(), "auto".into(), "4K".into()];
    let payload = tasks(r#"[{"model": "v/m", "prompt": "x"}]"#);
    let text = text(&payload, Ok(&contract), Lang::En);
    has(&text, "options: \"1024x1024\", \"auto\", 4K");
    let edited = text.replace("- resolution:", "- resolution: \"1024x1024\"");
    let spec = specs(&read_back(&edited)).remove(0);
    assert_eq!((spec.resolution.as_str(), spec.width.as_str()), ("1024x1024", ""));
}

#[test]
fn no_note_has_a_line_in_it_that_would_be_a_fact() {
    for lang in LANGS {
        let card = card(r#""x""#, Ok(&contract()), lang);
        let hint = card.lines().find(|line| line.contains("cfg")).unwrap();
        assert!(!hint.contains(&format!("{}{}", Key::Param.name(lang), words::of(lang).colon)), "{hint}");
    }
}

#[test]
fn a_task_that_means_such_a_value_keeps_it() {
    let value = [
        "16：9",
        "16 : 9",
        "**4K**",
        "none",
        "4K,",
        "1024×768",
        "a\\b",
        "“x”",
        "&amp;",
        "a, b",
        "<!-- x -->",
        "[a](b)",
        "x\u{200b}",
        "4K # x",
    ];
    for value in value.map(|value| serde_json::Value::from(value).to_string()) {
        let payload = tasks(&format!(
            r#"[{{"model": "v/m", "prompt": {value}, "aspect_ratio": {value}, "resolution": {value},
                "model_name": {value}, "image": [{value}], "param": [{value}], "label": {value}, "output": {value}}}]"#
        ));
        for lang in LANGS {
            let text = text(&payload, Ok(&contract()), lang);
            assert_eq!(specs(&read_back(&text)), specs(&payload), "{text}");
        }
    }
}
