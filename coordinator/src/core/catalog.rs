//! Which models there are, what they are called, and what they run with when nothing is said.
//!
//! The built-in table is `catalog.json` beside this file; an operator's file in the same form replaces it as a
//! whole. The form, every key required unless said otherwise:
//!
//! ```json
//! {
//!   "default_model": "slug of the model that a task without model, scene and kind gets",
//!   "models": [{
//!     "slug": "what goes to the program as --model",
//!     "endpoint": "vendor/endpoint, where the model's contract is found",
//!     "kind": "image or video",
//!     "name": "what people read",
//!     "scene": "its number in the menu (optional)",
//!     "aliases": ["other names, lower-case (optional)"],
//!     "defaults": {"aspect_ratio": "1:1"}
//!   }],
//!   "kinds": {"text-to-image": "slug of the default model of that kind of task"},
//!   "search_flows": [{"slug": "what looks like a model but is a search", "scene": "its number (optional)"}]
//! }
//! ```
//!
//! `defaults` (optional) may have `aspect_ratio resolution duration model_name seed width height`, all strings.
//!
//! What it does not do: read files, or fetch a model's contract.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// What a picture or video is made with, as far as a card or the catalogue can say it; empty is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    pub aspect_ratio: String,
    pub resolution: String,
    pub duration: String,
    pub model_name: String,
    pub seed: String,
    pub width: String,
    pub height: String,
}

impl Tuning {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn values(&self) -> [(&'static str, &str); 7] {
        [
            ("aspect_ratio", &self.aspect_ratio),
            ("resolution", &self.resolution),
            ("duration", &self.duration),
            ("model_name", &self.model_name),
            ("seed", &self.seed),
            ("width", &self.width),
            ("height", &self.height),
        ]
    }
}

/// What a model makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    Image,
    Video,
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name on the command line.
    pub slug: String,
    /// Where its contract is found, `vendor/endpoint`.
    pub endpoint: String,
    pub kind: ModelKind,
    /// What people read.
    pub name: String,
    /// Its number in the menu.
    pub scene: Option<String>,
    /// Other names, beside the slug itself.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it runs with when nothing is said.
    #[serde(default)]
    pub defaults: Tuning,
}

/// Why a catalogue file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not in the documented form.
    #[error("the catalogue is not in the documented form: {0}")]
    Form(#[from] serde_json::Error),
    /// Something stands for two things.
    #[error("the catalogue gives {what} {name:?} to both {first} and {second}; keep one")]
    Ambiguous { what: &'static str, name: String, first: String, second: String },
    /// A slug that no model has.
    #[error(
        "the catalogue names the model {slug:?} in {place}, but has no such model; add it or correct the slug"
    )]
    UnknownModel { place: String, slug: String },
    /// A name or a value that is empty, padded with white space, or has a NUL.
    #[error(
        "the catalogue has {value:?} as {place}; give a text without white space around it and without NUL"
    )]
    BadText { place: String, value: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default_model: String,
    models: Vec<Model>,
    kinds: BTreeMap<String, String>,
    search_flows: Vec<SearchFlow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchFlow {
    slug: String,
    scene: Option<String>,
}

/// Every model that has a name here. Others can be asked for all the same: what is not found stands for itself.
#[derive(Debug, Clone)]
pub struct Catalog {
    models: Vec<Model>,
    /// Place in `models` by slug.
    by_slug: HashMap<String, usize>,
    /// Slug by alias, the slugs themselves included.
    aliases: HashMap<String, String>,
    /// Slug of a model or a search flow by scene.
    scenes: HashMap<String, String>,
    /// Slug by kind of task.
    kinds: HashMap<String, String>,
    default_model: String,
    /// In lower case.
    search_flows: Vec<String>,
}

impl Catalog {
    /// The catalogue that is part of the program.
    #[expect(clippy::expect_used, reason = "the text is part of the program and a test parses it")]
    pub fn builtin() -> Self {
        Self::parse(include_str!("catalog.json")).expect("the built-in catalogue is valid")
    }

    /// Reads a catalogue in the form that this module documents.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let File { default_model, models, kinds, search_flows } = serde_json::from_str(json)?;
        let mut by_slug = HashMap::new();
        let mut aliases = HashMap::new();
        let mut scenes = HashMap::new();
        for (place, model) in models.iter().enumerate() {
            check_model(model)?;
            if by_slug.insert(model.slug.clone(), place).is_some() {
                let slug = model.slug.clone();
                return Err(Error::Ambiguous {
                    what: "the slug",
                    name: slug.clone(),
                    first: slug.clone(),
                    second: slug,
                });
            }
            for alias in std::iter::once(&model.slug).chain(&model.aliases) {
                assign(&mut aliases, "the alias", alias, &model.slug)?;
            }
            if let Some(scene) = &model.scene {
                assign(&mut scenes, "the scene", scene, &model.slug)?;
            }
        }
        for flow in &search_flows {
            check_text("the slug of a search flow", &flow.slug)?;
            if let Some(taken) = aliases.get(&flow.slug.to_lowercase()) {
                return Err(Error::Ambiguous {
                    what: "the slug",
                    name: flow.slug.clone(),
                    first: "a search flow".into(),
                    second: taken.clone(),
                });
            }
            if let Some(scene) = &flow.scene {
                check_text("the scene of a search flow", scene)?;
                assign(&mut scenes, "the scene", scene, &flow.slug)?;
            }
        }
        let known = |place: String, slug: &String| {
            if by_slug.contains_key(slug) {
                Ok(())
            } else {
                Err(Error::UnknownModel { place, slug: slug.clone() })
            }
        };
        known("default_model".into(), &default_model)?;
        for (kind, slug) in &kinds {
            known(format!("kinds.{kind}"), slug)?;
        }
        let search_flows = search_flows.into_iter().map(|flow| flow.slug.to_lowercase()).collect();
        let kinds = kinds.into_iter().collect();
        Ok(Self { models, by_slug, aliases, scenes, kinds, default_model, search_flows })
    }

    /// All models, in the order of the file.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of exactly this slug.
    pub fn model(&self, slug: &str) -> Option<&Model> {
        self.by_slug.get(slug).and_then(|place| self.models.get(*place))
    }

    /// What people read for a model: the catalogue's name, else the slug itself.
    pub fn display_name<'a>(&'a self, slug: &'a str) -> &'a str {
        self.model(slug).map_or(slug, |model| &model.name)
    }

    /// What a model runs with when nothing is said, where there is such a thing.
    pub fn defaults(&self, slug: &str) -> Option<&Tuning> {
        self.model(slug).map(|model| &model.defaults).filter(|defaults| !defaults.is_empty())
    }

    /// Which model a task means by its `scene`, `model` and kind (`task`), each empty when not given. A search
    /// flow comes out as its slug; see [`Self::search_flow`].
    pub fn resolve(&self, scene: &str, model: &str, task: &str) -> String {
        let named = if scene.trim().is_empty() { model } else { look_up(&self.scenes, scene) };
        if named.trim().is_empty() {
            return self.kinds.get(task.trim()).unwrap_or(&self.default_model).clone();
        }
        look_up(&self.aliases, named).to_owned()
    }

    /// The search flow that a model's name stands for in any letter case, if it is none to run.
    pub fn search_flow(&self, model: &str) -> Option<&str> {
        let model = model.to_lowercase();
        self.search_flows.iter().find(|flow| **flow == model).map(String::as_str)
    }
}

/// Trimmed, as it is, then lower-cased; what is not found stands for itself.
fn look_up<'a>(map: &'a HashMap<String, String>, name: &'a str) -> &'a str {
    let name = name.trim();
    map.get(name).or_else(|| map.get(&name.to_lowercase())).map_or(name, String::as_str)
}

fn check_model(model: &Model) -> Result<(), Error> {
    check_text("the slug of a model", &model.slug)?;
    check_text(&format!("the endpoint of {}", model.slug), &model.endpoint)?;
    check_text(&format!("the name of {}", model.slug), &model.name)?;
    for alias in &model.aliases {
        check_text(&format!("an alias of {}", model.slug), alias)?;
    }
    if let Some(scene) = &model.scene {
        check_text(&format!("the scene of {}", model.slug), scene)?;
    }
    for (field, value) in model.defaults.values() {
        if !value.is_empty() {
            check_text(&format!("the default {field} of {}", model.slug), value)?;
        }
    }
    Ok(())
}

fn check_text(place: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() || value.trim() != value || value.contains('\0') {
        return Err(Error::BadText { place: place.to_owned(), value: value.to_owned() });
    }
    Ok(())
}

fn assign(
    map: &mut HashMap<String, String>,
    what: &'static str,
    name: &str,
    slug: &str,
) -> Result<(), Error> {
    match map.insert(name.to_owned(), slug.to_owned()) {
        Some(first) if first != slug => {
            Err(Error::Ambiguous { what, name: name.to_owned(), first, second: slug.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalogue_has_all_ten_models() {
        let catalog = Catalog::builtin();
        assert_eq!(catalog.models().len(), 10);
        for model in catalog.models() {
            assert_eq!(catalog.resolve("", &model.slug.to_uppercase(), ""), model.slug);
            assert_eq!(catalog.resolve(model.scene.as_deref().unwrap(), "", ""), model.slug);
            assert!(catalog.defaults(&model.slug).is_some(), "{}", model.slug);
            for alias in &model.aliases {
                assert_eq!(*alias, alias.to_lowercase());
                assert_eq!(catalog.resolve("", &format!(" {} ", alias.to_uppercase()), ""), model.slug);
            }
        }
        for flow in ["modelzoo-search-flow", "remote-search-flow"] {
            assert_eq!(catalog.search_flow(&flow.to_uppercase()), Some(flow));
        }
        assert_eq!(catalog.display_name("wan27-t2v"), "万相2.7");
        assert_eq!(catalog.display_name("44306"), "44306");
        assert_eq!(catalog.model("wan27-t2v").unwrap().endpoint, "wan-2-7-official/text-to-video");
    }

    #[test]
    fn kinds_are_trimmed_and_exact_in_case() {
        let catalog = Catalog::builtin();
        for (kind, slug) in [
            ("text-to-image", "bpro-t2i"),
            ("illustration-anime", "bpro-t2i"),
            ("commercial-visual", "seedream5-t2i"),
            ("text-layout-image", "o2-t2i"),
            (" text-to-video\n", "wan27-t2v"),
            ("cinematic-video", "v31pro-t2v"),
            ("Text-To-Video", "bpro-t2i"),
            ("", "bpro-t2i"),
        ] {
            assert_eq!(catalog.resolve("", "", kind), slug, "{kind}");
        }
    }

    #[test]
    fn what_is_not_found_stands_for_itself_in_its_own_case() {
        let catalog = Catalog::builtin();
        assert_eq!(catalog.resolve("", " My/Model ", ""), "My/Model");
        assert_eq!(catalog.resolve(" Some Scene ", "b2-t2i", ""), "Some Scene");
        // Endpoints and display names are no aliases.
        assert_eq!(
            catalog.resolve("", "wan-2-7-official/text-to-video", ""),
            "wan-2-7-official/text-to-video"
        );
        assert_eq!(catalog.resolve("", "万相2.7", ""), "万相2.7");
    }

    fn file(models: &str, rest: &str) -> Result<Catalog, Error> {
        Catalog::parse(&format!(r#"{{"default_model":"a","models":[{models}],{rest}}}"#))
    }

    const A: &str = r#"{"slug":"a","endpoint":"v/a","kind":"image","name":"A","scene":"1"}"#;

    #[test]
    fn a_replacement_needs_no_scene_alias_or_default() {
        let catalog = file(
            r#"{"slug":"a","endpoint":"v/a","kind":"video","name":"A","scene":null}"#,
            r#""kinds":{},"search_flows":[]"#,
        )
        .unwrap();
        assert_eq!(catalog.resolve("1", "", ""), "1");
        assert_eq!(catalog.defaults("a"), None);
        assert_eq!(catalog.search_flow("remote-search-flow"), None);
    }

    #[test]
    fn a_replacement_that_contradicts_itself_is_refused() {
        let none = r#""kinds":{},"search_flows":[]"#;
        let b = r#"{"slug":"b","endpoint":"v/b","kind":"image","name":"B","aliases":["a"]}"#;
        assert!(matches!(file(&format!("{A},{A}"), none), Err(Error::Ambiguous { .. })));
        assert!(matches!(file(&format!("{A},{b}"), none), Err(Error::Ambiguous { .. })));
        assert!(matches!(file("", none), Err(Error::UnknownModel { .. })));
        assert!(matches!(file(A, r#""kinds":{"k":"x"},"search_flows":[]"#), Err(Error::UnknownModel { .. })));
        assert!(matches!(
            file(A, r#""kinds":{},"search_flows":[{"slug":"s","scene":"1"}]"#),
            Err(Error::Ambiguous { .. })
        ));
        assert!(matches!(
            file(A, r#""kinds":{},"search_flows":[{"slug":"A"}]"#),
            Err(Error::Ambiguous { .. })
        ));
        assert!(matches!(file(A, r#""kinds":{}"#), Err(Error::Form(_))));
        assert!(matches!(file(&A.replace("\"name\"", "\"nmae\""), none), Err(Error::Form(_))));
        assert!(matches!(file(&A.replace("v/a", " v/a"), none), Err(Error::BadText { .. })));
        assert!(matches!(Catalog::parse("nonsense"), Err(Error::Form(_))));
    }
}
