//! What the conformance vectors leave open about cards.

use proptest::prelude::*;

use super::*;

fn card(text: &str) -> Card {
    read(text, None).unwrap()
}

fn tuning(text: &str) -> Tuning {
    card(text).tuning
}

fn bad(text: &str) -> (usize, &'static str) {
    let bad = read(text, None).unwrap_err();
    (bad.line, bad.key)
}

#[test]
fn lines_end_in_lf_crlf_or_cr_and_blank_ones_are_skipped() {
    for end in ["\n", "\r\n", "\r", "\n\r\n\r", "\n \u{3000}\n"] {
        let found = card(&format!("提示词：a{end}b{end}比例：1:1{end}"));
        assert_eq!((found.prompt.as_str(), found.tuning.aspect_ratio.as_str()), ("a\nb", "1:1"), "{end:?}");
    }
    assert_eq!(bad("a: 1\r\n\r\nseed: x\r\n"), (3, "seed"));
    assert_eq!(bad("a: 1\r\rwidth: x"), (3, "width"));
}

#[test]
fn keys_lose_marks_and_case() {
    for key in [
        "Aspect_Ratio",
        "1. aspect_ratio",
        "12．aspect_ratio",
        "3、aspect_ratio",
        "4)aspect_ratio",
        "5） aspect_ratio",
        "**ASPECT_RATIO**",
        "- [aspect_ratio]",
        "aspect _ ratio",
    ] {
        assert_eq!(tuning(&format!("{key}: 3:2")).aspect_ratio, "3:2", "{key}");
    }
    // No list mark: the digits stay, and the key is another one.
    for key in ["1 aspect_ratio", "1aspect_ratio", "1-aspect_ratio", "a1.aspect_ratio"] {
        assert_eq!(tuning(&format!("{key}: 3:2")).aspect_ratio, "", "{key}");
    }
    assert_eq!(tuning("固定Seed：12").seed, "12");
}

#[test]
fn a_line_without_a_colon_goes_on_unless_it_is_a_menu_line() {
    assert_eq!(card("提示词：a\n 7. no\n8. yes\n1、yes\n3.no\n0. yes").prompt, "a\n8. yes\n1、yes\n0. yes");
    assert_eq!(card("lost\n1. lost\n提示词：\n\na").prompt, "a");
    assert_eq!(card("提示词：a\nfoo: b\nc").prompt, "a");
    assert_eq!(card("提示词：a\n：b\nc").prompt, "a");
}

#[test]
fn the_first_usable_alias_in_the_lists_order_wins() {
    assert_eq!(tuning("图片质量：A\n规格：B\n清晰度：C").resolution, "B");
    assert_eq!(tuning("规格：默认\n图片尺寸：Z\n清晰度：C").resolution, "C");
    assert_eq!(tuning("resolution：AUTO\n规格：你定").resolution, "");
    assert_eq!(tuning("视频时长：3\n时长：8").duration, "8");
    assert_eq!(tuning("model_name: 推荐就行\n模型档位：pro").model_name, "pro");
}

#[test]
fn an_open_value_is_open_for_fields_but_not_for_the_prompt() {
    for open in ["", "默认", "你定", "推荐就行", "都行", "随便", "Auto", "DEFAULT"] {
        let text = format!("提示词：{open}\n比例：{open}\nseed：{open}\n时长：{open}\n宽度：{open}");
        let found = card(&text);
        assert_eq!(found.tuning, Tuning::default(), "{open}");
        assert_eq!(found.prompt, open);
    }
    assert_eq!(tuning("比例：默认的").aspect_ratio, "默认的");
}

#[test]
fn seeds_are_digits_or_random() {
    for random in ["随机", "用随机的", "Random", "-1"] {
        let found = card(&format!("seed：{random}"));
        assert!(found.random_seed && found.tuning.seed.is_empty(), "{random}");
    }
    assert_eq!(tuning("seed：00012345678901234567890123").seed, "12345678901234567890123");
    assert_eq!(tuning("seed：000").seed, "0");
    for wrong in ["-2", "1.5", "1 2", "１２", "+3", "random please", "0x1"] {
        assert_eq!(bad(&format!("a: b\nseed: {wrong}")), (2, "seed"), "{wrong}");
    }
}

#[test]
fn durations_take_seconds_and_sizes_do_not() {
    for (value, seconds) in [("8", "8"), ("08 秒", "8"), ("8S", "8"), ("8 \u{3000}s", "8"), ("0", "0")] {
        assert_eq!(tuning(&format!("时长：{value}")).duration, seconds, "{value}");
    }
    for wrong in ["秒", "8秒s", "8 sec", "7.5", "-8", "八秒", "8分"] {
        assert_eq!(bad(&format!("时长：{wrong}")), (1, "时长"), "{wrong}");
    }
    for wrong in ["512px", "5s", "-5", "5.0"] {
        assert_eq!(bad(&format!("高度：{wrong}")), (1, "高度"), "{wrong}");
    }
    // The first usable alias is the one that counts, even where the next would be good.
    assert_eq!(bad("时长：8\nduration: long"), (2, "duration"));
}

#[test]
fn a_size_as_resolution_gives_what_the_card_does_not() {
    let found = tuning("规格：0800 X 0600\n宽度：auto\n高度：7\n清晰度：2K");
    assert_eq!((found.width.as_str(), found.height.as_str(), found.resolution.as_str()), ("800", "7", ""));
    for none in ["800*600", "800x", "x600", "800x600x2", "800 by 600", "8k x 4k"] {
        let found = tuning(&format!("规格：{none}"));
        assert_eq!((found.resolution.as_str(), found.width.as_str()), (none, ""), "{none}");
    }
}

#[test]
fn notes_fill_only_what_is_open() {
    let ratio = |text: &str| tuning(text).aspect_ratio;
    assert_eq!(ratio("其他补充：竖 方"), "9:16");
    assert_eq!(ratio("其他补充：方"), "1:1");
    assert_eq!(ratio("其他补充：横\n高度：5"), "16:9");
    assert_eq!(ratio("其他补充：横\n宽度：5"), "");
    assert_eq!(ratio("其他补充：横\n规格：5x5"), "");
    assert_eq!(ratio("其他补充：横\n比例：默认"), "16:9");
    assert_eq!(ratio("其他补充：横\n比例：3:2"), "3:2");
    // A continued note counts as a whole.
    assert_eq!(ratio("其他补充：好看\n竖版"), "9:16");

    let seconds = |notes: &str| tuning(&format!("其他补充：{notes}")).duration;
    for (notes, expected) in [
        ("3秒或5秒", "5"),
        ("8 秒 10秒", "10"),
        ("8\u{3000}秒", "8"),
        ("15秒", ""),
        ("110秒", ""),
        ("１5秒", ""),
        ("15秒，不，5秒", "5"),
        ("0.5秒", "5"),
        ("7秒", ""),
        ("5分秒", ""),
        ("5", ""),
    ] {
        assert_eq!(seconds(notes), expected, "{notes}");
    }
    assert_eq!(tuning("其他补充：10秒\n时长：默认").duration, "10");

    assert!(card("其他补充：随机\nseed：默认").random_seed);
    assert!(!card("其他补充：随机\nseed：7").random_seed);
}

#[test]
fn defaults_fill_what_is_still_open() {
    let text = str::to_owned;
    let defaults =
        Tuning { aspect_ratio: text("4:3"), seed: text("9"), width: text("1"), ..Tuning::default() };
    let filled = |card: &str| read(card, Some(&defaults)).unwrap();
    assert_eq!(filled("nothing known").tuning, defaults);
    assert_eq!(filled("seed：5").tuning.seed, "5");
    let random = filled("其他补充：随机");
    assert!(random.random_seed && random.tuning.seed.is_empty());
    let sized = filled("规格：8x6").tuning;
    assert_eq!((sized.width.as_str(), sized.height.as_str(), sized.aspect_ratio.as_str()), ("8", "6", "4:3"));
}

proptest! {
    #[test]
    fn no_text_makes_a_card_panic(text in any::<String>()) {
        let _ = read(&text, None);
    }

    #[test]
    fn no_text_made_of_card_words_makes_it_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "提示词", "其他补充", "seed", "时长", "宽度", "规格", "：", ":", "\n", "\r", " ", "1.", "7", "10",
                "x", "X", "秒", "s", "随机", "-1", "默认", "竖", "\u{3000}", "１", "é", "🎨",
            ]),
            0..40,
        ),
    ) {
        if let Ok(card) = read(&words.concat(), None) {
            for digits in [&card.tuning.seed, &card.tuning.duration, &card.tuning.width, &card.tuning.height] {
                prop_assert!(digits.bytes().all(|b| b.is_ascii_digit()));
            }
        }
    }
}
