//! A grammar of command lines: right shapes with hostile values, and what comes of them when bytes get lost.

use std::fmt::Write;

use libgateway::{
    BackoffConfig, Batch, CircuitBreakerConfig, CustomerPolicy, GatewayConfig, GpuNanos, Ordering, RateLimit, Span,
    Timeouts, Timestamp,
};
use libgateway_tests::kit::{START, id};
use libgateway_tests::rng::Rng;

/// Writes one line after the other. What it wrote before decides nothing: the seed alone does.
pub(crate) struct Lines {
    pub(crate) chance: Rng,
    pub(crate) now: Timestamp,
    /// The highest lease there can be by now.
    pub(crate) leases: u64,
    /// The latest batch of settlements.
    pub(crate) batch: Option<Batch>,
    /// One in so many values is hostile.
    mildness: u64,
    jobs: Vec<String>,
}

impl Lines {
    pub(crate) fn new(seed: u64) -> Self {
        let jobs = (0..JOBS).map(|number| id(number).to_string()).collect();
        Self { chance: Rng::new(seed), now: START, leases: 0, batch: None, mildness: 1, jobs }
    }

    /// A backend for a gateway to begin with.
    pub(crate) fn first_backend(&self) -> String {
        let now = self.now.as_nanos();
        format!(
            r#"{{"now":{now},"command":{{"put_backend":{{"name":"gpu-1","kind":"torch","modality":"image","family":"flux","models":"all","slots":3}}}}}}"#
        )
    }

    /// A small gateway of random limits, so that each of them is met.
    pub(crate) fn config(&mut self) -> GatewayConfig {
        (self.now, self.leases, self.batch) = (START, 0, None);
        self.mildness = 1 << self.chance.below(8);
        let some = |chance: &mut Rng, max: u64| 1 + chance.below(max) as u32;
        let chance = &mut self.chance;
        let span = |chance: &mut Rng| match chance.below(8) {
            0 => Span::from_nanos(chance.bits() >> chance.below(64) | 1),
            _ => Span::from_nanos(1 << (24 + chance.below(18))),
        };
        let mut customer = CustomerPolicy::default().queued_max(some(chance, 30)).running_max(some(chance, 8));
        if chance.one_in(2) {
            customer = customer.rate(RateLimit::per_second(some(chance, 50).into(), some(chance, 20).into()));
        }
        let (queue, total) = (span(chance), span(chance));
        let timeouts = Timeouts {
            queue: chance.one_in(2).then_some(queue),
            total: chance.one_in(4).then_some(total),
            ..Timeouts::NONE
        };
        let age = span(chance);
        let breaker = CircuitBreakerConfig::default().open_for(span(chance)).open_for_max(Span::MAX);
        let backoff = BackoffConfig::default().base(span(chance)).max(Span::MAX);
        GatewayConfig::default()
            .seed(chance.bits())
            .ordering(if chance.one_in(5) { Ordering::Fifo } else { Ordering::Fair })
            .age_after(chance.one_in(3).then_some(age))
            .customer(customer)
            .estimate(GpuNanos::from_nanos(1 << chance.below(64)))
            .lease_for(span(chance))
            .timeouts(timeouts)
            .backoff(backoff.retries(some(chance, 5)))
            .losses_max(chance.below(4) as u32)
            .breaker(breaker)
            .jobs_max(some(chance, 150))
            .payload_len_max(64)
            .output_len_max(64)
            .retain_for(span(chance))
            .retained_max(chance.below(12) as u32)
            .customers_max(some(chance, 9))
            .customer_idle(span(chance))
            .routes_max(some(chance, 6))
            .families_max(some(chance, 3))
            .backends_max(some(chance, 4))
            .events_max(some(chance, 20))
            .settle_within(if chance.one_in(4) { span(chance) } else { Span::from_secs(60) })
            .clock_jump_max(Span::from_secs(3_600))
            .due_max(some(chance, 6))
    }

    /// The next line. Sometimes it is no longer UTF-8, as the bytes of a torn log are.
    pub(crate) fn line(&mut self, out: &mut Vec<u8>) {
        let mut text = String::from_utf8(core::mem::take(out)).unwrap_or_default();
        text.clear();
        match self.chance.below(40 * self.mildness) {
            0 => self.nested(&mut text),
            1 => self.noise(&mut text),
            _ => self.entry(&mut text),
        }
        *out = text.into_bytes();
        if self.hostile(3) {
            self.damage(out);
        }
    }

    /// Whether the next value is to be hostile: now and then, more often where a value is likely to spoil a line alone.
    fn hostile(&mut self, weight: u64) -> bool {
        self.chance.below(weight * self.mildness) == 0
    }

    fn entry(&mut self, out: &mut String) {
        match self.chance.below(1_000) {
            0 if self.chance.one_in(3) => {
                self.now = Timestamp::from_nanos(self.chance.bits() >> self.chance.below(40)).max(self.now);
            }
            1..=4 => self.now += Span::from_secs(self.chance.below(4_000)),
            _ => self.now += Span::from_nanos(self.chance.bits() >> (34 + self.chance.below(30))),
        }
        out.push_str("{\"now\":");
        match self.hostile(10) {
            true => self.number(out),
            false => _ = write!(out, "{}", self.now.as_nanos()),
        }
        out.push_str(",\"command\":");
        match self.chance.below(24) {
            0 => self.group(out, "all", 0),
            1 => self.group(out, "first_of", 0),
            2..=4 => self.operator(out),
            _ => self.leaf(out),
        }
        match self.chance.below(40 * self.mildness) {
            0 => out.push_str(",\"more\":1}"),
            1 => _ = write!(out, ",\"now\":{}}}", self.now.as_nanos()),
            _ => out.push('}'),
        }
    }

    fn group(&mut self, out: &mut String, name: &str, depth: u64) {
        _ = write!(out, "{{\"{name}\":[");
        let steps = if self.hostile(1) { 0 } else { 1 + self.chance.below(3) };
        for step in 0..steps {
            if step > 0 {
                out.push(',');
            }
            match self.chance.below(5 + 3 * depth) {
                0 if depth < 4 => self.group(out, "all", depth + 1),
                1 if depth < 4 => self.group(out, "first_of", depth + 1),
                _ => self.leaf(out),
            }
        }
        out.push_str("]}");
    }

    fn leaf(&mut self, out: &mut String) {
        match self.chance.below(39) {
            0..=9 => self.submit(out),
            10..=17 => out.push_str("{\"dispatch\":{}}"),
            18 => self.field(out, "{\"dispatch_route\":{\"route\":", Self::route, "}}"),
            19 | 20 => {
                self.field(out, "{\"dispatch_to\":{\"backend\":", Self::backend, ",\"max\":");
                self.count(out);
                out.push_str("}}");
            }
            21 | 22 => self.field(out, "{\"heartbeat\":{\"lease\":", Self::lease, "}}"),
            23 => {
                self.field(out, "{\"progress\":{\"lease\":", Self::lease, ",\"progress_ppm\":");
                self.count(out);
                out.push_str("}}");
            }
            24..=29 => self.complete(out),
            30..=33 => self.fail(out),
            34 => self.field(out, "{\"release\":{\"lease\":", Self::lease, "}}"),
            35 | 36 => self.field(out, "{\"cancel\":{\"job\":", Self::job, "}}"),
            _ => self.field(out, "{\"delete\":{\"job\":", Self::job, "}}"),
        }
    }

    fn operator(&mut self, out: &mut String) {
        match self.chance.below(26) {
            0 => out.push_str("{\"advance\":{}}"),
            1 => out.push_str("{\"accept_clock\":{}}"),
            2..=4 => self.put_backend(out),
            5 if self.chance.one_in(8) => self.field(out, "{\"remove_backend\":{\"backend\":", Self::backend, "}}"),
            5 | 6 => {
                let draining = self.chance.one_in(4);
                self.field(out, "{\"drain_backend\":{\"backend\":", Self::backend, ",\"draining\":");
                _ = write!(out, "{draining}}}}}");
            }
            7 => {
                self.field(out, "{\"force_breaker\":{\"backend\":", Self::backend, ",\"state\":");
                out.push_str(self.chance.word(&["null", "null", "\"open\"", "\"closed\"", "\"ajar\""]));
                self.field(out, ",\"until\":", Self::instant, "}}");
            }
            8 | 9 => self.put_customer(out),
            10 => self.field(out, "{\"remove_customer\":{\"customer\":", Self::customer, "}}"),
            11 => self.field(out, "{\"pause\":{\"route\":", Self::route, "}}"),
            12 => self.field(out, "{\"resume\":{\"route\":", Self::route, "}}"),
            13 => self.put_prices(out),
            14..=18 => self.field(out, "{\"take_settlements\":{\"max\":", Self::count, "}}"),
            19..=24 => {
                let name = self.chance.pick(&["confirm", "confirm", "return"]);
                _ = write!(out, "{{\"{name}_settlements\":{{\"batch\":{{\"id\":");
                match self.batch.filter(|_| !self.hostile(1)) {
                    Some(Batch { id, first_seq, len }) => {
                        _ = write!(out, "{id},\"first_seq\":{first_seq},\"len\":{len}}}}}}}");
                    }
                    None => {
                        self.field(out, "", Self::count, ",\"first_seq\":");
                        self.field(out, "", Self::count, ",\"len\":");
                        self.field(out, "", Self::count, "}}}");
                    }
                }
            }
            _ => out.push_str("{\"explode\":{}}"),
        }
    }

    fn submit(&mut self, out: &mut String) {
        out.push_str("{\"submit\":{\"id\":");
        self.job(out);
        self.field(out, ",\"customer\":", Self::customer, ",\"route\":");
        self.route(out);
        let mut options = self.chance.bits();
        let mut option = || {
            options >>= 3;
            options & 7 == 0
        };
        if option() {
            self.field(out, ",\"payload\":", Self::payload, "");
        }
        if option() {
            let lane = self.chance.pick(&["high", "normal", "low", "low", "urgent", "High"]);
            _ = write!(out, ",\"priority\":\"{lane}\"");
        }
        if option() {
            self.field(out, ",\"estimate\":", Self::count, "");
        }
        if option() {
            self.field(out, ",\"tokens\":", Self::count, "");
        }
        if option() {
            self.field(out, ",\"affinity\":", Self::name, "");
        }
        if option() {
            self.field(out, ",\"idempotency_key\":", Self::name, "");
        }
        if option() {
            out.push_str(",\"timeouts\":{");
            let clock = self.chance.pick(&["queue", "start", "run", "total", "nap"]);
            _ = write!(out, "\"{clock}\":");
            self.instant(out);
            out.push('}');
        }
        if option() && option() {
            self.field(out, ",\"customer\":", Self::customer, "");
        }
        out.push_str("}}");
    }

    fn complete(&mut self, out: &mut String) {
        self.field(out, "{\"complete\":{\"lease\":", Self::lease, ",\"output\":");
        match self.chance.below(8) {
            0 => out.push_str("{\"inline\":[1,2,256]}"),
            1 => out.push_str("{\"inline\":[0,255]}"),
            2 => self.field(out, "{\"url\":", Self::name, "}"),
            _ => out.push_str("{\"url\":\"https://cdn/x\"}"),
        }
        self.usage(out);
        out.push_str("}}");
    }

    fn fail(&mut self, out: &mut String) {
        self.field(out, "{\"fail\":{\"lease\":", Self::lease, ",\"failure\":{\"class\":");
        match self.chance.below(4) {
            0 => self.field(out, "{\"http\":", Self::count, "}"),
            _ => {
                let class =
                    self.chance.pick(&["timeout", "connection", "network", "backend", "rejected", "lost", "mood"]);
                _ = write!(out, "\"{class}\"");
            }
        }
        if self.chance.one_in(4) {
            self.field(out, ",\"retry_after\":", Self::count, "");
        }
        if self.chance.one_in(4) {
            self.field(out, ",\"message\":", Self::name, ",\"retriable\":true");
        }
        out.push('}');
        self.usage(out);
        out.push_str("}}");
    }

    fn usage(&mut self, out: &mut String) {
        if self.chance.one_in(2) {
            return;
        }
        out.push_str(",\"usage\":[");
        let devices = if self.chance.one_in(50) { 70 } else { self.chance.below(4) };
        for device in 0..devices {
            if device > 0 {
                out.push(',');
            }
            let own = if self.chance.one_in(8) { 0 } else { device };
            _ = write!(out, "{{\"device\":\"GPU-{own}\",\"gpu_ns\":");
            self.count(out);
            out.push('}');
        }
        out.push(']');
    }

    fn put_backend(&mut self, out: &mut String) {
        self.field(out, "{\"put_backend\":{\"name\":", Self::backend, ",\"kind\":");
        _ = write!(out, "\"{}\"", self.chance.pick(&["torch", "vllm", "steam"]));
        let (modality, family) =
            self.chance.pick(&[("image", "flux"), ("video", "wan"), ("image", "qwen"), ("", "x y")]);
        _ = write!(out, ",\"modality\":\"{modality}\",\"family\":\"{family}\",\"models\":");
        out.push_str(self.chance.word(&[
            "\"all\"",
            "{\"only\":[\"dev\"]}",
            "{\"only\":[\"dev\",\"schnell\"]}",
            "{\"only\":[\"schnell\",\"dev\"]}",
            "{\"only\":[]}",
            "\"none\"",
        ]));
        if self.chance.one_in(2) {
            self.field(out, ",\"slots\":", Self::count, "");
        }
        if self.chance.one_in(6) {
            self.field(out, ",\"devices\":", Self::count, "");
        }
        if self.chance.one_in(6) {
            self.field(out, ",\"warm_max\":", Self::count, "");
        }
        if self.chance.one_in(6) {
            self.field(out, ",\"lease_for\":", Self::instant, "");
        }
        if self.chance.one_in(8) {
            out.push_str(",\"labels\":[[");
            self.name(out);
            out.push(',');
            self.name(out);
            out.push_str("]]");
        }
        out.push_str("}}");
    }

    fn put_customer(&mut self, out: &mut String) {
        self.field(out, "{\"put_customer\":{\"customer\":", Self::customer, ",\"policy\":{\"weight\":");
        self.count(out);
        if self.chance.one_in(2) {
            self.field(out, ",\"rate\":{\"amount\":", Self::count, ",\"per\":");
            self.instant(out);
            self.field(out, ",\"burst\":", Self::count, "}");
        }
        if self.chance.one_in(3) {
            self.field(out, ",\"running_max\":", Self::count, ",\"queued_max\":");
            self.count(out);
        }
        if self.chance.one_in(4) {
            self.field(out, ",\"tier\":", Self::name, "");
        }
        out.push_str("}}}");
    }

    fn put_prices(&mut self, out: &mut String) {
        let currency = *self.chance.pick(&["USD", "USD", "EUR", "usd", ""]);
        self.field(out, "{\"put_prices\":{\"version\":", Self::count, "");
        _ = write!(out, ",\"currency\":\"{currency}\",\"prices\":[");
        for entry in 0..self.chance.below(3) {
            if entry > 0 {
                out.push(',');
            }
            let model = *self.chance.pick(&["flux/dev", "*", "wan/default", ""]);
            _ = write!(out, "{{\"model\":\"{model}\",\"tier\":\"*\",\"price\":\"");
            self.count(out);
            _ = write!(out, "{}\"}}", *self.chance.pick(&["/s", "/h", ".5/min", "/0s", "/", ""]));
        }
        out.push_str("]}}");
    }

    fn field(&mut self, out: &mut String, before: &str, value: fn(&mut Self, &mut String), after: &str) {
        out.push_str(before);
        value(self, out);
        out.push_str(after);
    }

    fn job(&mut self, out: &mut String) {
        if self.hostile(10) {
            return self.name(out);
        }
        let at = self.chance.below(JOBS as u64) as usize;
        out.push('"');
        out.push_str(&self.jobs[at]);
        out.push('"');
    }

    fn lease(&mut self, out: &mut String) {
        if self.hostile(10) {
            return self.number(out);
        }
        let reach = self.chance.below(12) + 1;
        let back = self.chance.below(reach);
        _ = write!(out, "{}", self.leases.saturating_sub(back));
    }

    fn customer(&mut self, out: &mut String) {
        match self.hostile(10) {
            true => self.name(out),
            false => out.push_str(self.chance.word(&["\"acme\"", "\"zoo\"", "\"umbrella\"", "\"Zo\u{eb}\""])),
        }
    }

    fn backend(&mut self, out: &mut String) {
        match self.hostile(10) {
            true => self.name(out),
            false => out.push_str(self.chance.word(&["\"gpu-1\"", "\"gpu-2\"", "\"gpu-3\""])),
        }
    }

    fn route(&mut self, out: &mut String) {
        let known = [
            "\"image/flux/dev/t2i\"",
            "\"image/flux/dev/i2i\"",
            "\"image/flux/schnell/t2i\"",
            "\"image/flux/dev/t2i?backend=torch\"",
            "\"image/flux/dev/t2i?backend=vllm\"",
            "\"video/wan/default/i2v\"",
            "\"image/qwen/edit/edit\"",
        ];
        let hostile = [
            "\"image/flux/dev\"",
            "\"image/flux/dev/t2i/\"",
            "\"///t2i\"",
            "\"image/flux/d\u{e9}v/t2i\"",
            "\"image/flux/dev/t2i?backend=abacus\"",
            "\"image/flux/dev/T2I\"",
            "7",
        ];
        let list: &[&str] = if self.hostile(6) { &hostile } else { &known };
        out.push_str(self.chance.word(list));
    }

    fn payload(&mut self, out: &mut String) {
        match self.chance.below(4) {
            0 => out.push_str("[255,0,1]"),
            1 => out.push_str("[256]"),
            2 => _ = write!(out, "\"{}\"", "p".repeat(self.chance.below(80) as usize)),
            _ => self.name(out),
        }
    }

    /// A name as nobody should choose it.
    fn name(&mut self, out: &mut String) {
        match self.chance.below(8) {
            0 => out.push_str("\"\""),
            1 => _ = write!(out, "\"{}\"", "x".repeat(100 + self.chance.below(200) as usize)),
            2 => out.push_str("\"bell\\u0007\""),
            3 => out.push_str("\"\u{1f980}\u{202e}\""),
            4 => out.push_str("\"\\ud800\""),
            5 => self.number(out),
            _ => _ = write!(out, "\"n{}\"", self.chance.below(3)),
        }
    }

    /// A span or instant, sometimes at the end of time.
    fn instant(&mut self, out: &mut String) {
        if self.hostile(4) {
            return self.number(out);
        }
        match self.chance.below(12) {
            0 => out.push_str("null"),
            1 => _ = write!(out, "{}", self.now.as_nanos().saturating_add(self.chance.bits() >> 30)),
            _ => _ = write!(out, "{}", self.chance.bits() >> self.chance.below(64)),
        }
    }

    /// A count, mostly one that can be.
    fn count(&mut self, out: &mut String) {
        if self.hostile(4) {
            return self.number(out);
        }
        match self.chance.below(20) {
            0 => _ = write!(out, "{}", self.chance.bits() >> self.chance.below(64)),
            _ => _ = write!(out, "{}", self.chance.below(10)),
        }
    }

    /// A number from where number types end, or none at all.
    fn number(&mut self, out: &mut String) {
        out.push_str(self.chance.word(&[
            "0",
            "1",
            "-1",
            "65535",
            "65536",
            "1000000",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "18446744073709551614",
            "18446744073709551615",
            "18446744073709551616",
            "340282366920938463463374607431768211456",
            "-9223372036854775809",
            "1.5",
            "1e3",
            "1e999",
            "-0",
            "null",
            "true",
            "\"7\"",
            "[]",
            "{}",
        ]));
    }

    fn nested(&mut self, out: &mut String) {
        let depth = self.chance.below(300) as usize;
        let (open, close) = *self.chance.pick(&[("[", "]"), ("{\"all\":[", "]}"), ("{\"command\":", "}")]);
        out.push_str("{\"now\":1,\"command\":");
        out.push_str(&open.repeat(depth));
        out.push_str(&close.repeat(depth));
        out.push('}');
    }

    fn noise(&mut self, out: &mut String) {
        for _ in 0..self.chance.below(40) {
            out.push(char::from_u32((self.chance.bits() >> (43 + self.chance.below(14))) as u32).unwrap_or('\u{0}'));
        }
    }

    /// Loses, changes or repeats some bytes.
    fn damage(&mut self, out: &mut Vec<u8>) {
        let len = out.len() as u64;
        if len == 0 {
            return;
        }
        let at = self.chance.below(len) as usize;
        match self.chance.below(4) {
            0 => out.truncate(at),
            1 => out[at] = self.chance.bits() as u8,
            2 => {
                let end = at + self.chance.below(len - at as u64) as usize;
                out.drain(at..end);
            }
            _ => {
                let end = at + self.chance.below((len - at as u64).min(64)) as usize;
                let again = out[at..end].to_vec();
                out.extend_from_slice(&again);
            }
        }
    }
}

const JOBS: u128 = 48;
