//! What writes a vector: a gateway that is given commands, and notes them with its replies.

use libgateway::{
    Command, Entry, Failure, Gateway, GatewayConfig, JobId, LeaseId, Output, Reply, Route, Span, Submit, Timestamp,
    Usage,
};
use libgateway_tests::kit;

/// A vector that is being written.
pub(crate) struct Log {
    gateway: Gateway,
    now: Timestamp,
    lines: Vec<String>,
}

impl Log {
    pub(crate) fn new(config: GatewayConfig) -> Self {
        let now = kit::START;
        let told = serde_json::to_string(&config).unwrap();
        let lines = vec![format!(r#"{{"config":{told},"now":{}}}"#, now.as_nanos())];
        Self { gateway: Gateway::new(config, now).unwrap(), now, lines }
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += Span::from_millis(millis);
    }

    /// Goes to the machine's next deadline, or to an instant so many nanoseconds before it.
    pub(crate) fn wait_until_due(&mut self, nanos_before: u64) -> Reply {
        let due = self.gateway.next_deadline().expect("something falls due").as_nanos();
        self.now = Timestamp::from_nanos(due - nanos_before);
        self.give(Command::Advance {})
    }

    pub(crate) fn give(&mut self, command: Command<'static>) -> Reply {
        self.enter(Entry::new(self.now, command))
    }

    /// Gives a command with its number in the log.
    pub(crate) fn give_numbered(&mut self, sequence: u64, command: Command<'static>) -> Reply {
        self.enter(Entry::new(self.now, command).numbered(sequence))
    }

    fn enter(&mut self, entry: Entry<'static>) -> Reply {
        let told = entry.to_json();
        let reply = self.gateway.apply(entry);
        self.lines.push(format!(r#"{{"entry":{told},"reply":{}}}"#, reply.to_json()));
        reply
    }

    pub(crate) fn give_at(&mut self, now: u64, command: Command<'static>) -> Reply {
        self.now = Timestamp::from_nanos(now);
        self.give(command)
    }

    pub(crate) fn submit(&mut self, submit: Submit<'static>) -> Reply {
        self.give(Command::Submit(submit))
    }

    /// Dispatches until there is nothing to run. Returns the leases.
    pub(crate) fn dispatch_all(&mut self) -> Vec<LeaseId> {
        let mut leases = Vec::new();
        while let Reply::Leased(lease) = self.give(Command::Dispatch {}) {
            leases.push(lease.id);
        }
        leases
    }

    pub(crate) fn dispatch_route(&mut self, route: &'static str) -> Reply {
        self.give(Command::DispatchRoute { route: Route::parse(route).unwrap() })
    }

    pub(crate) fn complete(&mut self, lease: LeaseId, usage: Usage<'static>) -> Reply {
        self.give(Command::Complete { lease, output: Output::url("https://cdn/1.webp"), usage })
    }

    pub(crate) fn fail(&mut self, lease: LeaseId, failure: Failure) -> Reply {
        self.give(Command::Fail { lease, failure, usage: Usage::unmeasured() })
    }

    pub(crate) fn cancel(&mut self, number: u128) -> Reply {
        self.give(Command::Cancel { job: JobId::from_entropy(number), usage: Usage::unmeasured() })
    }

    pub(crate) fn delete(&mut self, number: u128) -> Reply {
        self.give(Command::Delete { job: JobId::from_entropy(number) })
    }

    /// Asks for all settlements there are and confirms them.
    pub(crate) fn settle_all(&mut self) {
        while let Reply::Settlements(Some(taken)) = self.give(Command::TakeSettlements { max: 100 }) {
            self.give(Command::ConfirmSettlements { batch: taken.batch });
        }
    }

    /// How many commands there were.
    pub(crate) fn commands(&self) -> u64 {
        self.gateway.commands()
    }

    /// The machine's time and next deadline.
    pub(crate) fn times(&self) -> (u64, Option<u64>) {
        (self.now.as_nanos(), self.gateway.next_deadline().map(|at| at.as_nanos()))
    }

    /// The whole vector.
    pub(crate) fn finish(mut self) -> String {
        self.gateway.check_invariants();
        self.lines.push(format!(r#"{{"digest":"{}"}}"#, self.gateway.digest()));
        self.lines.join("\n") + "\n"
    }
}
