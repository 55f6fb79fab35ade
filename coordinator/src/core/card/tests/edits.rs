//! What a person changes on a card changes that in the command, and nothing else.

use super::*;

const TASK: &str = r#"{"model": "bpro-t2i", "prompt": "a lighthouse", "resolution": "2K", "seed": 7}"#;
const COMMAND: &str =
    "--model bpro-t2i|--prompt a lighthouse|--resolution 2K|--seed 7|--output {output}|--confirm-run";

/// An edit: what stands on the card, what is put there, and the same of the command.
type Edit = (&'static str, &'static str, &'static str, &'static str);

/// Added at the end of a card of either language.
const ADDED: &[(&str, &str, &str)] = &[
    ("比例：16:9", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("- **画面比例**：16:9", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("**Aspect Ratio:** 16:9", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("**比例：16:9**", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("- aspect\\_ratio: 16:9", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("3. aspect-ratio : 16:9", "--resolution", "--aspect-ratio 16:9|--resolution"),
    ("> 比例：16:9", "", ""),
    ("  - warning: 比例：16:9", "", ""),
    ("清晰度：4K", "--resolution 2K", "--resolution 4K"),
    ("清晰度：", "--resolution 2K|", ""),
    ("图片尺寸：auto", "--resolution 2K", "--resolution 4K"),
    ("图片尺寸：800 x 0600", "--resolution 2K|--seed 7", "--seed 7|--width 800|--height 600"),
    ("时长：8 秒", "--seed", "--duration 8|--seed"),
    ("DURATION: 08s", "--seed", "--duration 8|--seed"),
    ("固定Seed：随机", "--seed 7", "--random-seed"),
    ("固定seed：42", "--seed 7", "--seed 42"),
    ("random_seed: Yes", "--seed 7", "--seed 7|--random-seed"),
    ("随机种子：42", "--seed 7", "--seed 42"),
    ("每次随机：是", "--seed 7", "--seed 7|--random-seed"),
    ("其他补充：横屏，10秒，随机", "--resolution 2K", "--aspect-ratio 16:9|--resolution 2K|--duration 10"),
    ("notes: 竖", "--resolution", "--aspect-ratio 9:16|--resolution"),
    ("steps: 020", "--seed", "--steps 20|--seed"),
    ("步数：\"a few\"", "--seed", "--steps a few|--seed"),
    ("参数：cfg=3", "--output", "--param cfg=3|--output"),
    ("param: a=1\nparam: b: 2", "--output", "--param a=1|--param b: 2|--output"),
    ("image: a.png\n图片：\" b.png\"", "--resolution", "--image a.png|--image  b.png|--resolution"),
    ("音频：a.mp3", "--resolution", "--audio a.mp3|--resolution"),
    ("video: https://h/v.mp4", "--resolution", "--video https://h/v.mp4|--resolution"),
    ("输出：out/x", "--output {output}", "--output out/x"),
    ("同步：是", "--confirm-run", "--sync|--confirm-run"),
    ("sync: off", "", ""),
    ("label: hero", "", ""),
];

const ENGLISH: &[Edit] = &[
    ("resolution: 2K", "resolution: 4K", "--resolution 2K", "--resolution 4K"),
    ("resolution: 2K", "resolution:", "--resolution 2K|", ""),
    ("- resolution: 2K\n", "", "--resolution 2K|", ""),
    ("resolution: 2K", "resolution: default", "--resolution 2K", "--resolution 4K"),
    ("resolution: 2K", "resolution: \"auto\"", "--resolution 2K", "--resolution auto"),
    ("resolution: 2K", "resolution: 2K\n- resolution: 1K", "--resolution 2K", "--resolution 1K"),
    ("aspect_ratio:", "aspect_ratio: 21:9", "--resolution", "--aspect-ratio 21:9|--resolution"),
    ("aspect_ratio:", "aspect_ratio: 随便", "--resolution", "--aspect-ratio 1:1|--resolution"),
    ("seed: 7", "seed: random", "--seed 7", "--random-seed"),
    ("seed: 7", "seed: -1", "--seed 7", "--random-seed"),
    ("seed: 7", "seed: \"-1\"", "--seed 7", "--seed=-1"),
    ("seed: 7", "seed: auto", "--seed 7|", ""),
    ("a lighthouse\n", "a lighthouse\nat dusk\n\n1. red\n", "a lighthouse", "a lighthouse\nat dusk\n1. red"),
    ("prompt: a lighthouse", r#"prompt: "a \"red\"\none""#, "a lighthouse", "a \"red\"\none"),
    ("prompt: a lighthouse", "prompt: auto", "a lighthouse", "auto"),
    ("prompt: a lighthouse", "prompt:", "--prompt a lighthouse|", ""),
    ("model: bpro-t2i", "model: kling", "--model bpro-t2i", "--model kling30-t2v"),
    ("run_mode: confirm_run", "run_mode: Run-With-Defaults", "--confirm-run", "--run-with-defaults"),
    ("- run_mode: confirm_run\n", "", "", ""),
    ("image:", "image: a.png", "--resolution", "--image a.png|--resolution"),
];

const CHINESE: &[Edit] = &[
    ("规格：2K", "规格：4K", "--resolution 2K", "--resolution 4K"),
    ("规格：2K", "规格: 4K", "--resolution 2K", "--resolution 4K"),
    ("规格：2K", "规格：", "--resolution 2K|", ""),
    ("规格：2K", "规格：默认", "--resolution 2K", "--resolution 4K"),
    ("规格：2K", "规格：2K\nresolution: 1K", "--resolution 2K", "--resolution 1K"),
    ("规格：2K", "resolution: 1K\n规格：2K", "--resolution 2K", "--resolution 1K"),
    ("比例：\n", "比例：21:9\n", "--resolution", "--aspect-ratio 21:9|--resolution"),
    ("随机性：7", "随机性：随机", "--seed 7", "--random-seed"),
    ("提示词：a lighthouse", "提示词：灯塔", "a lighthouse", "灯塔"),
    ("模型：bpro-t2i", "模型：即梦", "--model bpro-t2i", "--model seedream5-t2i"),
    ("运行方式：confirm_run", "运行方式：run_with_defaults", "--confirm-run", "--run-with-defaults"),
    ("图片：", "图片：a.png", "--resolution", "--image a.png|--resolution"),
];

/// The command, its arguments in pairs.
fn command(spec: &TaskSpec) -> String {
    let mut command = String::new();
    for arg in spec.command("{output}") {
        if !command.is_empty() {
            command.push(if arg.starts_with("--") { '|' } else { ' ' });
        }
        command.push_str(&arg);
    }
    command
}

fn check(text: &str, from: &str, to: &str) {
    let expected = if from.is_empty() { COMMAND.to_owned() } else { COMMAND.replacen(from, to, 1) };
    assert_eq!(command(&specs(&read_back(text))[0]), expected, "of\n{text}");
}

#[test]
fn an_edit_changes_what_it_says() {
    let payload = tasks(&format!("[{TASK}]"));
    for (lang, edits) in [(Lang::En, ENGLISH), (Lang::Zh, CHINESE)] {
        let text = text(&payload, Ok(&contract()), lang);
        check(&text, "", "");
        for (from, to, was, is) in edits {
            assert!(text.contains(from), "{from:?} in\n{text}");
            check(&text.replacen(from, to, 1), was, is);
        }
    }
}

#[test]
fn a_line_that_a_person_adds_wins_in_cards_of_both_languages() {
    let payload = tasks(&format!("[{TASK}]"));
    for lang in LANGS {
        let text = text(&payload, Ok(&contract()), lang);
        for (line, was, is) in ADDED {
            check(&format!("{text}{line}\n"), was, is);
        }
    }
}

#[test]
fn a_line_under_another_name_than_the_cards_wins_wherever_it_stands() {
    let payload = tasks(&format!("[{TASK}]"));
    for (lang, prompt, lines) in [
        (Lang::En, "- prompt", ["比例：16:9", "Aspect Ratio: 16:9", "图片比例：16:9"]),
        (Lang::Zh, "- 提示词", ["aspect_ratio: 16:9", "**画面比例**：16:9", "图片比例：16:9"]),
    ] {
        let text = text(&payload, Ok(&contract()), lang);
        let middle = text.find(prompt).unwrap();
        for line in lines {
            let edited = format!("{}{line}\n{}", &text[..middle], &text[middle..]);
            check(&edited, "--resolution", "--aspect-ratio 16:9|--resolution");
        }
    }
}

#[test]
fn a_size_fills_only_what_the_card_leaves_open() {
    let payload = tasks(r#"[{"model": "fkmax-t2i", "prompt": "x", "width": 512}]"#);
    for lang in LANGS {
        let text = format!("{}规格：800x600\n", text(&payload, Ok(&contract()), lang));
        let spec = specs(&read_back(&text)).remove(0);
        assert_eq!((spec.width.as_str(), spec.height.as_str(), spec.resolution.as_str()), ("512", "600", ""));
    }
}

#[test]
fn cards_can_be_written_by_hand_added_and_taken_away() {
    let read = |text: &str| read_back(text);
    let one = read("model: b2-t2i\nprompt: x\nconcurrency: 2");
    assert_eq!((one.tasks.len(), one.tasks[0].prompt.as_str()), (1, "x"));
    assert_eq!(one.concurrency, Some(crate::core::integer::Integer::Value(2)));

    let two = read(
        "intro without a key\n\n# Title\n\n## one\ntext\nmodel: a\nprompt: x\n---\n### two\n模型：b\n\n## none\n",
    );
    let models: Vec<&str> = two.tasks.iter().map(|task| task.model.as_str()).collect();
    assert_eq!(models, ["a", "b"]);

    let fenced = read("```markdown\n- model: a\n- prompt: x\n```\n");
    assert_eq!(fenced.tasks[0].prompt, "x");
    let marked = read("\u{feff}model: a\r\nprompt: x\r\n");
    assert_eq!((marked.tasks[0].model.as_str(), marked.tasks[0].prompt.as_str()), ("a", "x"));

    let payload = tasks(r#"["x", "y", "z"]"#);
    let text = text(&payload, Ok(&contract()), Lang::En);
    let (from, to) = (text.find("## 2.").unwrap(), text.find("## 3.").unwrap());
    let left = read(&format!("{}{}", &text[..from], &text[to..]));
    let prompts: Vec<&str> = left.tasks.iter().map(|task| task.prompt.as_str()).collect();
    assert_eq!(prompts, ["x", "z"]);
}

#[test]
fn a_run_mode_on_the_card_goes_before_every_rule() {
    let mode = |text: &str| specs(&read_back(text))[0].run_mode;
    assert_eq!(mode("model: bpro-t2i\nprompt: auto\nrun_mode: confirm_run"), RunMode::ConfirmRun);
    assert_eq!(mode("model: bpro-t2i\nseed: 5\nrun_mode: run_with_defaults"), RunMode::RunWithDefaults);
    // Without it the usual rules decide.
    assert_eq!(mode("model: bpro-t2i\nprompt: x"), RunMode::RunWithDefaults);
    assert_eq!(mode("model: bpro-t2i\nprompt: x\nseed: 5"), RunMode::ConfirmRun);
    assert_eq!(mode("model: v/m\nprompt: auto\nrun_mode:"), RunMode::RunWithDefaults);
}
