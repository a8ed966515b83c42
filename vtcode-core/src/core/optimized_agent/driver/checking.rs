//! Checks beside the session: after an edit one runs while the model thinks, and what is new in its
//! outcome stands after the next result. One at a time: a newer edit, or a command of the model's
//! that may do anything, ends it. Never waited for, but at the prompt's end, which ends it, too.

use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::checks::Checks;
use super::Run;
use crate::config::limits::CheckLimits;
use crate::core::event::{AttachedKind, CheckEnd, EventKind};
use crate::llm::message::{Message, ToolAnswer, ToolCall};
use crate::tools::builtin::run_command::{Check, Checked};

/// The check of a run.
pub(super) struct Checking {
    check: Option<Arc<Check>>,
    checks: Checks,
    /// The one that runs, if one does.
    running: JoinSet<Checked>,
    cancel: CancellationToken,
    superseded: bool,
}

impl Checking {
    pub(super) fn new(
        check: Option<Arc<Check>>,
        limits: CheckLimits,
        messages: &[Message],
    ) -> Self {
        Self {
            check,
            checks: Checks::after(messages, limits),
            running: JoinSet::new(),
            cancel: CancellationToken::new(),
            superseded: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Waits for the end of the check that runs.
    pub(super) async fn ended(&mut self) -> Checked {
        match self.running.join_next().await {
            Some(Ok(checked)) => checked,
            Some(Err(_)) => Checked::unusable(),
            None => std::future::pending().await,
        }
    }

    /// The model knows only these messages from here on.
    pub(super) fn remember(&mut self, messages: &[Message]) {
        self.checks.remember(messages);
    }

    fn supersede(&mut self) {
        if self.is_running() {
            self.superseded = true;
            self.cancel.cancel();
        }
    }
}

impl Run<'_> {
    /// A file was edited: what runs speaks of what was before.
    pub(super) fn checks_edited(&mut self) {
        if self.checking.check.is_some() {
            self.checking.checks.edited();
            self.checking.supersede();
        }
    }

    /// A call is about to run. What may do anything needs the build folder and the processor more
    /// than a check does.
    pub(super) fn checks_make_way(&mut self, call: &ToolCall, args: &Value) {
        let opaque = || {
            let tool = self.engine.pipeline.registry().get(&call.name);
            tool.is_ok_and(|tool| tool.effect(args).opaque)
        };
        if self.checking.is_running() && opaque() {
            self.checking.supersede();
        }
    }

    /// Begins a check where one is due; the model thinks meanwhile.
    pub(super) fn start_check(&mut self) {
        if self.stopped || self.checking.is_running() {
            return;
        }
        let Some(check) = self.checking.check.clone() else { return };
        let Some(allowance) = self.checking.checks.due() else { return };
        let command = check.command().to_owned();
        self.checking.cancel = self.stop_calls.child_token();
        self.checking.superseded = false;
        let cancel = self.checking.cancel.clone();
        self.tell(EventKind::CheckStarted { command });
        self.checking
            .running
            .spawn(async move { check.run(allowance.cpu, allowance.wall, &cancel).await });
    }

    /// A check ended. What was edited meanwhile is checked next.
    pub(super) fn check_ended(&mut self, checked: Checked) {
        self.take_check(checked);
        self.start_check();
    }

    /// Takes the outcome of a check.
    fn take_check(&mut self, mut checked: Checked) {
        let Some(check) = &self.checking.check else { return };
        if self.checking.superseded {
            checked.end = CheckEnd::Superseded;
        }
        let command = check.command().to_owned();
        let spent = self.checking.checks.ended(&command, &checked);
        let Checked { end, exit_code, cpu, ran, .. } = checked;
        self.tell(EventKind::CheckEnded { command, end, exit_code, cpu, ran });
        if let Some(message) = spent {
            self.tell(EventKind::Warning { message });
        }
    }

    /// Shows what is new of a check after these results.
    pub(super) fn attach_check(&mut self, results: &mut [ToolAnswer]) {
        if let Some(Ok(checked)) = self.checking.running.try_join_next() {
            self.check_ended(checked);
        }
        let Some(last) = results.last_mut() else { return };
        let Some(text) = self.checking.checks.take_news() else { return };
        self.charge_result(text.len());
        last.text.push_str(&text);
        let (call_id, what) = (last.call_id.clone(), AttachedKind::Check);
        self.tell(EventKind::Attached { call_id, text, files: Vec::new(), what });
    }

    /// Ends the check that runs: nobody waits for it any more.
    pub(super) async fn end_check(&mut self) {
        if self.checking.is_running() {
            self.checking.cancel.cancel();
            let checked = self.checking.ended().await;
            self.take_check(checked);
        }
    }
}
