//! Reading a TOML table key by key, collecting what is wrong instead of stopping at it.

use std::{collections::BTreeMap, fmt::Display, ops::Range};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{manifest::error::Problem, pattern::Pattern, suggest};

/// All problems of one text, and the lines of what was read from it.
pub(super) struct Report<'t> {
    text: &'t str,
    pub(super) problems: Vec<Problem>,
    pub(super) lines: BTreeMap<String, usize>,
}

/// One section, read key by key; [`Section::finish`] complains about keys nobody asked for.
pub(super) struct Section<'r, 't> {
    name: &'static str,
    table: Option<&'r DeTable<'t>>,
    /// Of the section's header.
    span: Range<usize>,
    known: Vec<&'static str>,
    report: &'r mut Report<'t>,
}

/// A value of the right type, and where it is.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new(), lines: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, at: &Range<usize>, field: String, message: String, hint: Option<String>) {
        let line = self.line(at);
        self.problems.push(Problem { line, field, message, hint });
    }

    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

impl<'r, 't> Section<'r, 't> {
    /// The section `[name]` of a document. Absent, or no table (then that is a problem), it reads as empty.
    pub(super) fn open(document: &'r DeTable<'t>, name: &'static str, report: &'r mut Report<'t>) -> Self {
        let mut section = Self { name, table: None, span: 0..0, known: Vec::new(), report };
        if let Some(value) = document.get(name) {
            section.span = value.span();
            section.report.lines.insert(name.to_owned(), section.report.line(&value.span()));
            match value.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                other => {
                    let message = format!("`{name}` must be a section, found {}", type_of(other));
                    let hint = format!("write [{name}] on a line of its own");
                    section.report.add(&value.span(), name.to_owned(), message, Some(hint));
                }
            }
        }
        section
    }

    pub(super) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// The value of `key`, whatever it is.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'t>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let value = self.table?.get(key)?;
        self.report.lines.insert(self.field(key), self.report.line(&value.span()));
        Some(value)
    }

    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<Found<&'r str>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Found { value: text.as_ref(), span: value.span() }),
            other => self.wrong_type(key, "a string", other, value.span(), &format!("{key} = {example}")),
        }
    }

    /// A string, through a parser whose error says what is wrong.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key, example)?;
        match parse(text.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, &text.span, format!("`{key}` in [{}]: {error}", self.name), None);
                None
            }
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let example = choices.first().map_or_else(String::new, |(name, _)| format!("\"{name}\""));
        let text = self.text(key, &example)?;
        self.one_of(key, text, choices).map(|found| found.value)
    }

    /// As [`Section::choice`], for a key that takes several in a list as well.
    pub(super) fn choices<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<Vec<Found<T>>> {
        let value = self.value(key)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let example = choices.last().map_or_else(String::new, |(name, _)| format!("{key} = \"{name}\""));
        let mut found = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => {
                    found.extend(self.one_of(key, Found { value: text.as_ref(), span: item.span() }, choices));
                }
                other => {
                    self.wrong_type::<()>(key, "a string or a list of strings", other, item.span(), &example);
                }
            }
        }
        Some(found)
    }

    fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        text: Found<&str>,
        choices: &[(&'static str, T)],
    ) -> Option<Found<T>> {
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(Found { value: *value, span: text.span });
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let hint = suggest::did_you_mean(text.value, names.iter().copied())
            .unwrap_or_else(|| format!("use one of {}", quoted(&names)));
        let message = format!("unknown value `{}` for `{key}` in [{}]", text.value, self.name);
        self.problem(key, &text.span, message, Some(hint));
        None
    }

    pub(super) fn integer(&mut self, key: &'static str, least: u32, most: u32) -> Option<u32> {
        let value = self.value(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            let example = format!("{key} = {least}");
            return self.wrong_type(key, "a whole number", value.get_ref(), value.span(), &example);
        };
        let number = to_i64(integer).and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let message = format!("`{key}` in [{}] is {integer}", self.name);
            self.problem(key, &value.span(), message, Some(format!("it must be between {least} and {most}")));
        }
        number
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            other => self.wrong_type(key, "true or false", other, value.span(), &format!("{key} = true")),
        }
    }

    /// A list of strings, through a parser whose error says what is wrong.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        what: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let example = format!("{key} = {example}");
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong_type(key, what, value.get_ref(), value.span(), &example);
        };
        let mut values = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => match parse(text) {
                    Ok(value) => values.push(value),
                    Err(error) => {
                        self.problem(key, &item.span(), format!("`{key}` in [{}]: {error}", self.name), None);
                    }
                },
                other => {
                    self.wrong_type::<()>(key, "a list of strings", other, item.span(), &example);
                }
            }
        }
        Some(values)
    }

    pub(super) fn patterns(&mut self, key: &'static str, example: &str) -> Option<Vec<Pattern>> {
        self.list(key, "a list of patterns", example, Pattern::parse)
    }

    pub(super) fn table(&mut self, key: &'static str, example: &str) -> Option<&'r DeTable<'t>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => self.wrong_type(key, "a table", other, value.span(), &format!("{key} = {example}")),
        }
    }

    /// `key` had to be there.
    pub(super) fn missing(&mut self, key: &'static str, message: String, hint: String) {
        let span = self.span.clone();
        self.problem(key, &span, message, Some(hint));
    }

    pub(super) fn wrong_type<T>(
        &mut self,
        key: &str,
        wanted: &str,
        found: &DeValue<'_>,
        span: Range<usize>,
        example: &str,
    ) -> Option<T> {
        let message = format!("`{key}` in [{}] must be {wanted}, found {}", self.name, type_of(found));
        self.problem(key, &span, message, Some(format!("write `{example}`")));
        None
    }

    pub(super) fn problem(&mut self, key: &str, at: &Range<usize>, message: String, hint: Option<String>) {
        self.report.add(at, self.field(key), message, hint);
    }

    /// Complain about keys nobody asked for. `elsewhere` tells which section has a key of that name.
    pub(super) fn finish(mut self, elsewhere: impl Fn(&str) -> Option<&'static str>) {
        let known = std::mem::take(&mut self.known);
        let unknown = self.table.into_iter().flat_map(|table| table.keys()).filter(|key| {
            let key: &str = key.get_ref();
            !known.contains(&key)
        });
        for key in unknown {
            let (span, key) = (key.span(), key.get_ref());
            let hint = elsewhere(key)
                .map(|section| format!("it belongs in [{section}]"))
                .or_else(|| suggest::did_you_mean(key, known.iter().copied()))
                .unwrap_or_else(|| format!("[{}] may have {}", self.name, quoted(&known)));
            self.problem(key, &span, format!("unknown key `{key}` in [{}]", self.name), Some(hint));
        }
    }

    fn field(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }
}

pub(super) fn quoted(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

pub(super) fn to_i64(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
