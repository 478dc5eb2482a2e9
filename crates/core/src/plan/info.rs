//! Gathering what is known about a plan beforehand.

use super::{PlanFile, PlanInfo};
use crate::chain::{Node, NodeId, Tree};
use crate::crypto::Volume;
use std::borrow::Cow;
use std::sync::Arc;

/// One word of a command line, quoted where a shell would take it apart.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")))
    }
}

pub(super) struct InfoBuilder<'a> {
    tree: &'a Tree,
    info: PlanInfo,
}

impl<'a> InfoBuilder<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            info: PlanInfo::default(),
        }
    }

    /// The plan reads these files.
    pub(super) fn read(&mut self, nodes: &[Arc<Node>]) {
        for node in nodes {
            // Zeros are no file.
            if node.has_file() {
                self.file(node.id);
            }
            if let Some(data) = &node.data {
                self.file(data.id);
            }
        }
    }

    fn file(&mut self, id: NodeId) -> &mut PlanFile {
        let files = &mut self.info.files;
        let known = files.iter().position(|f| f.node == id);
        let index = known.unwrap_or_else(|| {
            let node = self.tree.node(id);
            if let Ok(Some(cipher)) = node.cipher() {
                // The file with the data may be another one than the image's.
                self.info.ciphers.insert(node.data_node().id, cipher);
            }
            files.push(PlanFile {
                node: id,
                name: node.name.clone(),
                before: Some(node.fingerprint),
                written: false,
            });
            files.len() - 1
        });
        &mut files[index]
    }

    /// The plan writes this image: its file, and its data file.
    pub(super) fn written(&mut self, id: NodeId) {
        self.relinked(id);
        if let Some(data) = &self.tree.node(id).data {
            self.file(data.id).written = true;
        }
    }

    /// The plan writes the image's own file only.
    pub(super) fn relinked(&mut self, id: NodeId) {
        self.file(id).written = true;
    }

    /// The plan makes this file.
    pub(super) fn made(&mut self, node: NodeId, name: &str) {
        self.info.files.push(PlanFile {
            node,
            name: name.to_owned(),
            before: None,
            written: true,
        });
    }

    /// The guest data in the file that the plan makes is encrypted.
    pub(super) fn encrypted(&mut self, node: NodeId, volume: &Volume) {
        self.info.ciphers.insert(node, &volume.cipher);
    }

    pub(super) fn invalid(&mut self, nodes: &[NodeId]) {
        self.info.invalid.extend(nodes);
    }

    pub(super) fn superseded(&mut self, node: NodeId) {
        self.info.superseded.push(node);
    }

    pub(super) fn broken(&mut self, nodes: &[NodeId]) {
        self.info.broken_dependents.extend(nodes);
    }

    pub(super) fn link(&mut self, overlay: NodeId, base: Option<NodeId>) {
        self.info.links.push((overlay, base));
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.info.warnings.push(warning);
    }

    pub(super) fn equivalent(&mut self, command: String) {
        self.info.equivalent.push(command);
    }

    pub(super) fn build(self) -> PlanInfo {
        self.info
    }
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(word("dir/disk-1.qcow2"), "dir/disk-1.qcow2");
        assert_eq!(word("my disk"), "'my disk'");
        assert_eq!(word("it's"), "'it'\\''s'");
        assert_eq!(word("$HOME"), "'$HOME'");
        assert_eq!(word(""), "''");
    }
}
