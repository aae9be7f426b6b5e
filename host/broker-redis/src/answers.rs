//! The answers of functions, part by part.

use std::{collections::HashMap, fmt::Display, str::FromStr};

use redis::Value;
use umbel_broker::{DeliveredNode, Delivery, Error, Input, NodeRecord, NodeWork, Result};
use umbel_model::{JobRecord, Token, canvas::When};

use crate::{
    bytes::{Reader, corrupt},
    decode::{Stored, read_attempt, stored},
    nodes::{self, Place},
};

/// The parts of a function's answer, in order.
#[derive(Debug)]
pub(crate) struct Answer {
    parts: std::vec::IntoIter<Value>,
    /// Depth and spec by workflow's member and template: an answer has each once.
    templates: HashMap<(String, u32), (u32, String)>,
}

impl Answer {
    pub(crate) fn new(value: Value) -> Result<Self> {
        match value {
            Value::Array(values) => Ok(Self { parts: values.into_iter(), templates: HashMap::new() }),
            other => Err(Error::Failed(format!("a function answered with a {}", kind_of(&other)))),
        }
    }

    pub(crate) fn done(&self) -> bool {
        self.parts.len() == 0
    }

    pub(crate) fn next(&mut self) -> Result<Value> {
        self.parts.next().ok_or_else(|| Error::Failed("a function's answer is too short".into()))
    }

    /// None for what is not there.
    pub(crate) fn maybe_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::Nil => Ok(None),
            other => Err(Error::Failed(format!("a function answered with a {} for a text", kind_of(&other)))),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>> {
        self.maybe_bytes()?.ok_or_else(|| Error::Failed("a function answered with nothing for a text".into()))
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(corrupt)
    }

    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self) -> Result<T> {
        self.text()?.parse().map_err(corrupt)
    }

    /// What `read` makes of the parts that are left.
    pub(crate) fn rest<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while !self.done() {
            all.push(read(self)?);
        }
        Ok(all)
    }

    pub(crate) fn number(&mut self) -> Result<i64> {
        match self.next()? {
            Value::Int(n) => Ok(n),
            other => Err(Error::Failed(format!("a function answered with a {} for a number", kind_of(&other)))),
        }
    }

    /// Depth and spec of a node's template, what `template_text` in `workflows.lua` answered.
    fn template(&mut self, name: &str, place: &Place) -> Result<(u32, String)> {
        let bytes = self.bytes()?;
        // Without the digits of the node.
        let key = (name[..name.len() - 6].to_owned(), place.template);
        if !bytes.is_empty() {
            let mut reader = Reader(&bytes);
            let found = (reader.u32()?, reader.rest()?.to_owned());
            self.templates.insert(key, found.clone());
            return Ok(found);
        }
        self.templates.get(&key).cloned().ok_or_else(|| corrupt("a template is missing"))
    }

    /// What `deliver` in `claim.lua` appended.
    pub(crate) fn delivery(&mut self) -> Result<Delivery> {
        let (name, bytes) = (self.text()?, self.bytes()?);
        let Stored { mut record, token, place, spec_apart, .. } = stored(&name, &bytes)?;
        self.fill(&mut record, spec_apart)?;
        let mut node = None;
        if let (Some(place), Some(at)) = (place, record.node) {
            let (depth, spec) = self.template(&name, &place)?;
            record.spec = spec;
            let input = input(&place, self.text()?);
            let (workflow, number, group, arguments) = (at.workflow, at.number, place.group, at.arguments);
            node = Some(Box::new(DeliveredNode { workflow, node: number, group, depth, arguments, input }));
        }
        Ok(Delivery {
            tenant: record.tenant,
            id: record.id,
            queue: record.queue,
            token: Token::new(token).map_err(corrupt)?,
            fence: record.fence,
            spec: record.spec,
            retries: record.retries,
            delivery: record.deliveries,
            node,
        })
    }

    /// What is kept apart: the spec, or a node's arguments.
    fn fill(&mut self, record: &mut JobRecord, spec_apart: bool) -> Result<()> {
        if spec_apart {
            let text = self.text()?;
            match &mut record.node {
                Some(node) => node.arguments = text,
                None => record.spec = text,
            }
        }
        Ok(())
    }

    /// What `read` in `reading.lua` appended for a job.
    pub(crate) fn job(&mut self) -> Result<JobRecord> {
        let (mut record, _, used_apart) = self.begun()?;
        let mut used = used_apart.iter();
        let read = |entries: &mut Self| {
            let more = used.next().map(String::as_str).unwrap_or_default();
            read_attempt(&entries.bytes()?, more)
        };
        record.history.extend(Self::new(self.next()?)?.rest(read)?);
        Ok(record)
    }

    /// What `append_job` in `reading.lua` appended.
    pub(crate) fn summary(&mut self) -> Result<(JobRecord, Option<Place>)> {
        let (record, place, _) = self.begun()?;
        Ok((record, place))
    }

    /// The same, and the rest of the usage of attempts that are kept apart.
    fn begun(&mut self) -> Result<(JobRecord, Option<Place>, Vec<String>)> {
        let (name, bytes) = (self.text()?, self.bytes()?);
        let Stored { mut record, place, spec_apart, used_apart, .. } = stored(&name, &bytes)?;
        self.fill(&mut record, spec_apart)?;
        if let Some(place) = &place {
            record.spec = self.template(&name, place)?.1;
        }
        Ok((record, place, used_apart))
    }

    /// What `nodes` in `reading.lua` appended.
    pub(crate) fn node(&mut self) -> Result<NodeRecord> {
        let number = self.number()?;
        if number < 0 {
            return nodes::join((-1 - number) as u32, &self.bytes()?);
        }
        let (record, place) = self.summary()?;
        let place = place.ok_or_else(|| corrupt("a node's record says that it is none"))?;
        let Place { template, when, on_failure, takes, after, group, next } = place;
        let work = NodeWork::Job { record: Box::new(record), template, takes };
        Ok(NodeRecord { number: number as u32, when, on_failure, after, group, next, work })
    }
}

/// What goes in front of a node's arguments; `value` is empty when it must be read.
fn input(place: &Place, value: String) -> Input {
    match (place.takes, place.after, place.when) {
        (true, Some(after), When::Failure) => Input::Error(after),
        (true, Some(after), When::Success | When::Link) if value.is_empty() => Input::Result(after),
        (true, Some(_), When::Success | When::Link) => Input::Value(value),
        _ => Input::Nothing,
    }
}

/// What a value is, without what is in it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) => "number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "list",
        _ => "value of another kind",
    }
}
