//! Trying a plan without writing: the files as they would be.
//!
//! A [`Trial`] takes the steps of a [`Plan`] and keeps, for every file they write, a list of
//! where its bytes would come from: a [`Patched`] file. A tree opened over patched files shows
//! what the plan would make of the images, and can be planned on again; so changes pile up
//! without a byte being written.
//!
//! What a trial costs is the metadata of the plan: the bytes of its [`Step::Write`]s and one
//! piece for each range that moves. Data stays where it is.

mod patched;
mod piece;

pub use patched::Patched;

use crate::chain::{NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Ciphers, Origin, Plan, PlanInfo, Step};
use crate::source::Source;
use backchain_format::bytes::{all_zero, to_u64, to_usize};
use piece::{Made, Piece};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of metadata and packed clusters that one trial may hold in memory.
pub const MAX_BYTES: u64 = 256 << 20;
/// Pieces that the files of one trial may have together: some 60 bytes of memory each.
pub const MAX_PIECES: u64 = 1 << 20;

/// Files by their numbers in the plan's tree.
pub type StagedFiles = BTreeMap<NodeId, Arc<Patched>>;

/// A plan being carried out onto patched files.
pub struct Trial<'a> {
    tree: &'a Tree,
    ciphers: Arc<Ciphers>,
    files: BTreeMap<NodeId, Patched>,
    bytes: u64,
}

impl<'a> Trial<'a> {
    /// A trial of the plan with this `info`, made for `tree`.
    pub fn new(tree: &'a Tree, info: &PlanInfo) -> Self {
        let written = info.files.iter().filter(|file| file.written);
        let files = written.map(|file| {
            let patched = match file.before {
                Some(_) => Patched::over(&tree.node(file.node).source),
                None => Patched::default(),
            };
            (file.node, patched)
        });
        Self {
            tree,
            ciphers: Arc::new(info.ciphers.clone()),
            files: files.collect(),
            bytes: 0,
        }
    }

    /// Carries out the plan's next step.
    ///
    /// # Errors
    /// *Unsupported* when the trial would need more memory than [`MAX_BYTES`] and
    /// [`MAX_PIECES`] allow. The trial is of no use then.
    pub fn step(&mut self, step: Step) -> Result<()> {
        let to = step.target();
        match step {
            Step::Copy {
                from,
                src,
                dst,
                len,
                ..
            } => {
                let source = self.source(from)?;
                self.file(to)?.copy(&source, src.0, dst.0, len)
            }
            Step::Inflate {
                from,
                src,
                len,
                codec,
                cluster,
                skip,
                take,
                dst,
                ..
            } => {
                let origin = Origin::Packed {
                    from,
                    src,
                    packed: len,
                    codec,
                    cluster,
                    skip,
                };
                self.make(origin, to, None, dst.0, take)?;
            }
            Step::Recode {
                origin: Origin::Zeros,
                encrypt: None,
                dst,
                len,
                ..
            }
            | Step::Zero { dst, len, .. }
            | Step::Allocate { dst, len, .. } => self.file(to)?.zero(dst.0, len),
            Step::Recode {
                origin,
                dst,
                encrypt,
                len,
                ..
            } => self.make(origin, to, encrypt, dst.0, len)?,
            Step::Discard { dst, len, .. } => self.file(to)?.discard(dst.0, len),
            Step::Write { dst, bytes, .. } => self.write(to, dst.0, bytes)?,
            Step::SetLen { len, .. } => self.file(to)?.set_len(len),
            Step::Create { .. } | Step::Sync { .. } | Step::Seal { .. } => {}
        }
        self.within_limits()
    }

    /// Bytes of memory that the files of the trial take, about.
    pub fn memory(&self) -> u64 {
        self.bytes + self.pieces() * piece::MEMORY
    }

    /// The files that the plan writes or makes, as they are once it is done.
    pub fn finish(self) -> StagedFiles {
        let files = self.files.into_iter();
        files.map(|(id, file)| (id, Arc::new(file))).collect()
    }

    fn write(&mut self, to: NodeId, dst: u64, bytes: Vec<u8>) -> Result<()> {
        let len = to_u64(bytes.len());
        if all_zero(&bytes) {
            self.file(to)?.zero(dst, len);
        } else {
            self.bytes += len;
            self.file(to)?.put(dst, len, Piece::held(bytes));
        }
        Ok(())
    }

    /// Puts bytes that have to be unpacked, decrypted or encrypted when they are read.
    fn make(
        &mut self,
        origin: Origin,
        to: NodeId,
        encrypt: Option<u64>,
        dst: u64,
        len: u64,
    ) -> Result<()> {
        let source = origin.source().map(|from| self.source(from)).transpose()?;
        let ciphers = &self.ciphers;
        let made = Made::new(origin, source, to, encrypt, len, ciphers);
        self.file(to)?.put(dst, len, Piece::made(made));
        Ok(())
    }

    fn source(&self, from: NodeId) -> Result<Source> {
        let index = to_usize(u64::from(from.0));
        match self.tree.nodes().get(index) {
            Some(node) => Ok(Arc::clone(&node.source)),
            None => Err(not_announced(from)),
        }
    }

    fn file(&mut self, to: NodeId) -> Result<&mut Patched> {
        self.files.get_mut(&to).ok_or_else(|| not_announced(to))
    }

    fn pieces(&self) -> u64 {
        self.files.values().map(Patched::pieces).sum()
    }

    fn within_limits(&self) -> Result<()> {
        let over = if self.bytes > MAX_BYTES {
            format!("more than {MAX_BYTES} bytes of tables and packed clusters")
        } else if self.pieces() > MAX_PIECES {
            format!("more than {MAX_PIECES} pieces")
        } else {
            return Ok(());
        };
        let message = format!("the change is too large to be tried without writing: {over}");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

fn not_announced(node: NodeId) -> Error {
    let message = format!("a step names file {node}, which the plan did not announce");
    Error::new(ErrorKind::Invalid, message)
}

/// The files that `plan`, made for `tree`, writes or makes, as they would be.
///
/// # Errors
/// When the plan fails, or would need too much memory (see [`Trial::step`]).
pub fn try_out(tree: &Tree, plan: Plan) -> Result<StagedFiles> {
    let mut trial = Trial::new(tree, &plan.info);
    for step in plan {
        trial.step(step?)?;
    }
    Ok(trial.finish())
}
