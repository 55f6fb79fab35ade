//! Every word of the cards, in both languages side by side. No other file has a sentence for people.
//!
//! No entry may have one of the planner's run words (a test keeps it): a card that is sent back whole as
//! `card_input` must not say "run" by itself. `{0}` and `{1}` are filled by [`fill`].

use super::Lang;
use super::value::shown;
use crate::core::contract::Unavailable;

/// Longest message of another's that is shown, in bytes.
const MAX_MESSAGE_BYTES: usize = 240;

macro_rules! table {
    ($($name:ident: $en:literal, $zh:literal;)*) => {
        /// The words of one language.
        pub(super) struct Words { $(pub(super) $name: &'static str,)* }

        const EN: Words = Words { $($name: $en,)* };
        const ZH: Words = Words { $($name: $zh,)* };

        #[cfg(test)]
        impl Words {
            fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

table! {
    colon: ": ", "：";
    comma: ", ", "，";
    semicolon: "; ", "；";
    between: ", ", "、";

    intro: "{0} cards, one for each task. Nothing has run yet and nothing was stored.",
        "共 {0} 张卡片，每个任务一张。尚未运行，也未保存。";
    intro_one: "1 card, for the one task. Nothing has run yet and nothing was stored.",
        "共 1 张卡片，对应唯一的任务。尚未运行，也未保存。";
    how_to_edit: "Change what stands after the colon of a fact, such as prompt or seed; empty leaves it open. \
        Notes (field, options, warning and so on) are not read. A value in \"double quotes\" is a JSON string.",
        "可修改提示词、随机性等行冒号后的内容，留空即不指定；字段、可选、注意等说明行不会被读取；\
        带英文双引号的值是 JSON 字符串。";
    how_to_submit: "Lines that begin with > are not read. To run it, use muster submit --cards FILE",
        "以 > 开头的行不会被读取。确认后运行 muster submit --cards 文件";

    price_unknown: "unknown", "未知";
    named_by_publisher: "{0} (the publisher calls it {1})", "{0}（发布方称为 {1}）";

    text: "text", "文本";
    choice: "one of the options", "单选";
    flag: "true or false", "true 或 false";
    number: "number", "数字";
    slider: "number in a range", "范围内的数字";
    seed: "seed", "种子";
    images: "images", "图片";
    audios: "audio", "音频";
    videos: "video", "视频";
    media_slot: "a slot for your own media", "自有素材位";
    required: "required", "必填";

    random: "random", "随机";
    from_you: "from you", "由任务指定";
    from_card: "from the card", "由卡片指定";
    from_catalogue: "from the catalogue", "来自目录";
    open_catalogue: "left open, {0} from the catalogue", "未填，目录预设 {0}";
    open_model: "left open, {0} from the model", "未填，模型预设 {0}";
    open_random: "left open, random", "未填，随机";
    open_unknown: "left open, no preset is known", "未填，没有已知的预设";
    chosen_random: "random at each run", "每次运行随机";
    set_by_param: "to set it, add a line with the key {0} and the value {1}=VALUE",
        "如需设置，请加一行“{0}”，冒号后写 {1}=值";

    options_more: "{0} and {1} more", "{0} 等，另有 {1} 个";
    range_both: "{0} to {1}", "{0} 到 {1}";
    range_min: "at least {0}", "不小于 {0}";
    range_max: "at most {0}", "不大于 {0}";

    not_an_option: "{0} is not among the options; the API may refuse it, or bill it",
        "{0} 不在选项之中；接口可能拒绝，也可能照样计费";
    option_in_other_case: "{0} is not among the options, but {1} is; upper and lower case matter",
        "{0} 不在选项之中，但 {1} 在；区分大小写";
    not_a_number: "{0} is not a number; the API may refuse it, or bill it",
        "{0} 不是数字；接口可能拒绝，也可能照样计费";
    too_small: "{0} is below the minimum, {1}; the API may refuse it, or bill it",
        "{0} 小于最小值 {1}；接口可能拒绝，也可能照样计费";
    too_great: "{0} is above the maximum, {1}; the API may refuse it, or bill it",
        "{0} 大于最大值 {1}；接口可能拒绝，也可能照样计费";
    not_a_flag: "{0} is neither true nor false; the API may refuse it, or bill it",
        "{0} 不是 true 或 false；接口可能拒绝，也可能照样计费";
    no_such_field: "the model has no such field; the API may ignore it or refuse it",
        "模型没有这个字段；接口可能忽略，也可能拒绝";
    missing: "required, and none is given", "必填，但未提供";
    missing_slots: "slots for your own media, {0}; given, {1}", "自有素材位共 {0} 个，已提供 {1} 个";
    fields_left_out: "and {0} more fields that are not shown", "另有 {0} 个字段未显示";

    no_contract: "not known, {0}; only what the task itself says is shown", "未知，{0}；只显示任务本身的内容";
    no_inputs: "the publisher names no inputs; only what the task itself says is shown",
        "发布方未列出任何字段；只显示任务本身的内容";
    no_source: "as the model is neither in the catalogue nor vendor/endpoint nor the number of an app",
        "模型不在目录中，也不是 vendor/endpoint 或应用编号";
    timeout: "as there was no answer within {0} s", "{0} 秒内没有应答";
    unreachable: "as the publisher cannot be reached", "无法连接发布方";
    key_refused: "as the publisher did not take the API key", "发布方不接受 API 密钥";
    busy: "as the publisher is busy (HTTP {0}); try again later", "发布方繁忙（HTTP {0}），请稍后再试";
    busy_code: "as the publisher is busy (HTTP {0}, code {1}); try again later",
        "发布方繁忙（HTTP {0}，代码 {1}），请稍后再试";
    http: "as the publisher answered with HTTP {0}", "发布方应答 HTTP {0}";
    refused: "as the publisher answered with code {0}", "发布方应答代码 {0}";
    refused_saying: "as the publisher answered with code {0}, {1}", "发布方应答代码 {0}，{1}";
    too_large: "as the answer is larger than {0} bytes", "应答超过 {0} 字节";
    malformed: "as the answer cannot be read", "应答无法识别";
    redirected: "as the address leads elsewhere, and is not followed there", "地址被重定向到别处，未予跟随";
}

/// The words of a language.
pub(super) fn of(lang: Lang) -> &'static Words {
    match lang {
        Lang::En => &EN,
        Lang::Zh => &ZH,
    }
}

impl Words {
    /// Why a model's inputs are not known.
    pub(super) fn reason(&self, reason: &Unavailable) -> String {
        let number = |template, number: &dyn ToString| fill(template, &[&number.to_string()]);
        match reason {
            Unavailable::NoSource => self.no_source.to_owned(),
            Unavailable::Timeout { seconds } => number(self.timeout, seconds),
            Unavailable::Unreachable => self.unreachable.to_owned(),
            Unavailable::KeyRefused => self.key_refused.to_owned(),
            Unavailable::Busy { status, code: None } => number(self.busy, status),
            Unavailable::Busy { status, code: Some(code) } => {
                fill(self.busy_code, &[&status.to_string(), &code.to_string()])
            }
            Unavailable::Http { status } => number(self.http, status),
            Unavailable::Refused { code, message } if message.trim().is_empty() => number(self.refused, code),
            Unavailable::Refused { code, message } => {
                fill(self.refused_saying, &[&code.to_string(), &shown(message, MAX_MESSAGE_BYTES)])
            }
            Unavailable::TooLarge { limit } => number(self.too_large, limit),
            Unavailable::Malformed => self.malformed.to_owned(),
            Unavailable::Redirected => self.redirected.to_owned(),
        }
    }
}

/// Puts `args` where the template says `{0}`, `{1}`; what they hold is not looked at again.
pub(super) fn fill(template: &str, args: &[&str]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let number = from.get(1..2).and_then(|digit| digit.parse::<usize>().ok());
        match number.and_then(|number| args.get(number)) {
            Some(arg) if from[2..].starts_with('}') => {
                filled.push_str(arg);
                rest = &from[3..];
            }
            _ => {
                filled.push('{');
                rest = &from[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::RUN_WORDS;

    #[test]
    fn no_word_of_a_card_says_run() {
        for (name, words) in EN.all().into_iter().chain(ZH.all()) {
            let words = words.to_lowercase();
            for run in RUN_WORDS {
                assert!(!words.contains(run), "{name}: {run}");
            }
        }
    }

    #[test]
    fn both_languages_have_the_same_holes_and_no_breaks() {
        for ((name, en), (_, zh)) in EN.all().into_iter().zip(ZH.all()) {
            for hole in ["{0}", "{1}"] {
                assert_eq!(en.contains(hole), zh.contains(hole), "{name}");
            }
            assert!(!en.is_empty() && !zh.is_empty() && !en.contains('\n') && !zh.contains('\n'), "{name}");
        }
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at() {
        assert_eq!(fill("{0} and {1}{2}{", &["{1}", "b"]), "{1} and b{2}{");
        assert_eq!(fill("{1}在{0}", &["a", "b"]), "b在a");
    }
}
