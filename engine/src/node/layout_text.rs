//! `[[namespace]]`: the namespaces that a configuration names.

use super::NAMESPACE_NAME;
use super::config::{Checker, ConfigError, Quoted};
use super::layout::{NamespaceLayout, catalog_of};
use crate::model::limits::SHARDS_OF_NAMESPACE_MAX;
use crate::model::namespace::check_name;
use serde::Deserialize;
use std::collections::BTreeSet;
use toml::Spanned;

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamespaceText {
    name: Spanned<String>,
    shards: Option<Spanned<u64>>,
    split_at: Option<Spanned<Vec<Spanned<String>>>>,
}

impl Checker<'_> {
    /// All of them, in the order of the file.
    pub(super) fn namespaces(&self, all: &[NamespaceText]) -> Result<Vec<NamespaceLayout>, ConfigError> {
        let (mut layouts, mut names) = (Vec::with_capacity(all.len()), BTreeSet::new());
        for text in all {
            let name = text.name.get_ref();
            let wrong = |expected: String| self.wrong(text.name.span(), "namespace.name", expected, Quoted(name));
            check_name(name).map_err(|bad| wrong(format!("a name of a namespace ({bad})")))?;
            if name == NAMESPACE_NAME {
                return Err(wrong(format!("another name: {NAMESPACE_NAME:?} is there always, with one shard")));
            }
            if !names.insert(name) {
                return Err(wrong("a name that no other namespace has".into()));
            }
            layouts.push(self.namespace(text)?);
            // What is wrong with all of them together is told of the one that is too many.
            catalog_of(&layouts).map_err(|error| wrong(format!("less in all ({error})")))?;
        }
        Ok(layouts)
    }

    fn namespace(&self, text: &NamespaceText) -> Result<NamespaceLayout, ConfigError> {
        let name = text.name.get_ref();
        match (&text.shards, &text.split_at) {
            (Some(shards), Some(_)) => {
                let expected = "one of shards and split_at: keys to split at are one less than shards".into();
                Err(self.wrong(shards.span(), "namespace.shards", expected, "both"))
            }
            (Some(shards), None) => {
                let count = usize::try_from(*shards.get_ref()).unwrap_or(usize::MAX);
                if !(1..=SHARDS_OF_NAMESPACE_MAX).contains(&count) {
                    let expected = format!("1 to {SHARDS_OF_NAMESPACE_MAX} shards");
                    return Err(self.wrong(shards.span(), "namespace.shards", expected, shards.get_ref()));
                }
                Ok(NamespaceLayout::evenly(name, count))
            }
            (None, Some(points)) => {
                let mut before = "";
                for point in points.get_ref() {
                    let key = point.get_ref().as_str();
                    if key <= before {
                        let expected = format!("a key above {before:?}: they ascend");
                        return Err(self.wrong(point.span(), "namespace.split_at", expected, Quoted(key)));
                    }
                    before = key;
                }
                let points = points.get_ref().iter().map(|point| point.get_ref().as_bytes());
                Ok(NamespaceLayout::split_at(name, points))
            }
            (None, None) => Ok(NamespaceLayout::evenly(name, 1)),
        }
    }
}
