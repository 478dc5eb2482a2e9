//! What a dry run says.

use super::size;
use backchain::plan::{FileChange, RemoveMethod};
use backchain::{NodeId, Preview};
use serde_json::{Value, json};
use std::io::{self, Write};

/// A preview with the names of its files.
pub(crate) struct Shown<'a> {
    /// What would be done, in a word.
    pub(crate) operation: &'a str,
    /// The sum of the plan.
    pub(crate) preview: &'a Preview,
    /// Names of the tree's nodes.
    pub(crate) name: &'a dyn Fn(NodeId) -> String,
}

impl Shown<'_> {
    fn names(&self, nodes: &[NodeId]) -> Vec<String> {
        nodes.iter().map(|&id| (self.name)(id)).collect()
    }

    fn is_new(&self, change: &FileChange) -> bool {
        let file = self
            .preview
            .info
            .files
            .iter()
            .find(|f| f.node == change.node);
        file.is_some_and(|f| f.before.is_none())
    }

    fn method(&self) -> Option<u8> {
        self.preview.info.method.map(|method| match method {
            RemoveMethod::Commit => 1,
            RemoveMethod::Rebase => 2,
        })
    }

    /// As an object.
    pub(crate) fn json(&self) -> Value {
        let (preview, info) = (self.preview, &self.preview.info);
        let files: Vec<Value> = preview
            .changes
            .iter()
            .map(|change| {
                json!({
                    "filename": change.name,
                    "new": self.is_new(change),
                    "written": change.written,
                    "length-before": change.len_before,
                    "length-after": change.len_after,
                })
            })
            .collect();
        let read = info.files.iter().filter(|f| !f.written).map(|f| &f.name);
        let links = info.links.iter().map(|&(overlay, base)| {
            json!({
                "filename": (self.name)(overlay),
                "backing": base.map(|id| (self.name)(id)),
            })
        });
        let mut value = json!({
            "operation": self.operation,
            "files": files,
            "read": read.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
            "copied": preview.copied,
            "inflated": preview.inflated,
            "zeroed": preview.zeroed,
            "packed": preview.packed,
            "metadata": preview.metadata,
            "written": preview.written(),
            "bytes-read": preview.read,
            "temporary": preview.temporary,
            "growth": preview.growth(),
            "steps": preview.steps,
            "syncs": preview.syncs,
            "invalid": self.names(&info.invalid),
            "superseded": self.names(&info.superseded),
            "broken-dependents": self.names(&info.broken_dependents),
            "warnings": info.warnings,
            "equivalent": info.equivalent,
        });
        if let (Some(method), Some(map)) = (self.method(), value.as_object_mut()) {
            map.insert("method".to_owned(), json!(method));
        }
        value
    }

    /// As text.
    pub(crate) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let (preview, info) = (self.preview, &self.preview.info);
        match self.method() {
            Some(method) => writeln!(out, "Dry run of {} by method {method}:", self.operation)?,
            None => writeln!(out, "Dry run of {}:", self.operation)?,
        }
        for file in info.files.iter().filter(|f| !f.written) {
            writeln!(out, "  read     {}", file.name)?;
        }
        for change in &preview.changes {
            let verb = if self.is_new(change) {
                "make "
            } else {
                "write"
            };
            let lengths = if change.len_before == change.len_after {
                format!("length stays {}", size::human(change.len_after))
            } else {
                let (before, after) = (change.len_before, change.len_after);
                format!("length {} -> {}", size::human(before), size::human(after))
            };
            let written = size::human(change.written);
            writeln!(out, "  {verb}    {}: {written}; {lengths}", change.name)?;
        }
        for &(overlay, base) in &info.links {
            let overlay = (self.name)(overlay);
            match base {
                Some(base) => writeln!(out, "  link     {overlay} -> {}", (self.name)(base))?,
                None => writeln!(out, "  link     {overlay} -> no backing file")?,
            }
        }
        writeln!(
            out,
            "  total    {} read, {} copied, {} unpacked, {} zeroed, {} packed, {} of metadata; {} steps",
            size::human(preview.read),
            size::human(preview.copied),
            size::human(preview.inflated),
            size::human(preview.zeroed),
            size::human(preview.packed),
            size::human(preview.metadata),
            preview.steps
        )?;
        let lists = [
            ("invalid afterwards", &info.invalid),
            ("not needed afterwards", &info.superseded),
            ("reads differently afterwards", &info.broken_dependents),
        ];
        for (what, nodes) in lists {
            if !nodes.is_empty() {
                writeln!(out, "  {what}: {}", self.names(nodes).join(", "))?;
            }
        }
        for warning in &info.warnings {
            writeln!(out, "  warning: {warning}")?;
        }
        for command in &info.equivalent {
            writeln!(out, "  like: {command}")?;
        }
        writeln!(out, "Nothing was written.")
    }
}
