//! The numbers that the runtime obeys. Switches become numbers once, here: "off" is zero slots or
//! a batch of one, never another code path.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::dialect::Effort;

/// Every number that the runtime obeys.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The engine's.
    pub agent: AgentLimits,
    /// The tools' and the pipeline's.
    pub tools: ToolLimits,
    /// The model client's.
    pub client: ClientLimits,
    /// The memory pool's.
    pub pool: PoolLimits,
    /// The profiler's.
    pub profiling: ProfilingLimits,
    /// Bytes that all sessions together may take of the disk.
    pub state_bytes: u64,
}

/// What one session may use.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentLimits {
    /// Model requests a prompt may take (a turn is one request and its tool calls).
    pub max_turns: u32,
    /// Total wall time of a run, if bounded.
    pub max_wall: Option<Duration>,
    /// Input and output tokens a prompt may use, if bounded.
    pub max_tokens: Option<u64>,
    /// US dollars a prompt may cost, if bounded; it holds where `price` is known.
    pub max_cost_usd: Option<f64>,
    /// What the model's tokens cost, if known.
    pub price: Option<Price>,
    /// Answers in a row that may ask only for what is known before the prompt fails; an answer whose
    /// calls ran for a second or longer waits for something and does not count.
    pub max_repeats: u32,
    /// Tool calls handed to the pipeline while the answer still streams. 0: after it has ended.
    pub calls_started_mid_stream: usize,
    /// Whether the engine measures its own work in each turn.
    pub measured: bool,
    /// Bytes of the newest messages that stay in memory; what is beyond twice that lies in a file
    /// of the session's folder, if it has one.
    pub history_window_bytes: usize,
    /// Bytes that a session may keep in memory. From 80 of 100 on, caches are shed; from 95 on, new
    /// work is refused.
    pub max_memory_bytes: u64,
    /// What of the model's window may be filled.
    pub context: ContextLimits,
    /// Tokens of files that may be attached to a step's results before they are asked for. 0: none,
    /// as shipped: recorded sessions show a gain in time that costs money unless a second is worth
    /// some thousand tokens (`docs/replay.md`).
    pub attached_tokens: u64,
    /// Bytes of folders' instructions that may be attached to the results of a step that touches a
    /// folder for the first time. 0: none.
    pub instructions_bytes: usize,
    /// What checks after edits may use.
    pub checks: CheckLimits,
    /// What a second of the user's time is worth, in input tokens, when that is weighed.
    pub second_tokens: u32,
}

/// What checks after edits may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckLimits {
    /// The processor time of all checks of one run. Zero: none is run.
    pub run_cpu: Duration,
    /// The processor time of one check.
    pub cpu: Duration,
    /// The wall time that one check may take.
    pub wall: Duration,
    /// Bytes of what a check says that reach the model.
    pub result_bytes: usize,
}

/// What of the model's window may be filled before older messages leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextLimits {
    /// The tokens that the window holds, if known.
    pub window_tokens: Option<u64>,
    /// The tokens of it that the answer needs.
    pub answer_tokens: u64,
    /// Percent of the window that a request may fill. 0: as much as the model takes.
    pub compact_at_percent: u8,
    /// Percent of the window that is filled once older messages have left it.
    pub compact_to_percent: u8,
}

impl ContextLimits {
    /// Returns the input tokens that a request may have: `compact_at_percent` of the window, or
    /// what the answer leaves of it if that is less, but for the answer's sake never less than
    /// half. None when there is no such bound.
    pub fn most_tokens(&self) -> Option<u64> {
        let window = self.window_tokens.filter(|_| self.compact_at_percent > 0)?;
        let most = window / 100 * u64::from(self.compact_at_percent);
        // However long an answer may be, half of the window is the question's.
        Some(most.min(window.saturating_sub(self.answer_tokens).max(window / 2)))
    }

    /// Returns the input tokens that compaction leaves, if there is a bound: `compact_to_percent`
    /// of the window, at most three quarters of [`Self::most_tokens`].
    pub fn target_tokens(&self) -> Option<u64> {
        let most = self.most_tokens()?;
        let target = self.window_tokens? / 100 * u64::from(self.compact_to_percent);
        Some(target.min(most / 4 * 3))
    }
}

/// What tokens cost, in US dollars for a million of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Input tokens.
    pub input: f64,
    /// Input tokens out of the provider's cache.
    pub cached: f64,
    /// Output tokens.
    pub output: f64,
}

/// What tool calls may use.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolLimits {
    /// Calls that run at the same time.
    pub max_concurrent: usize,
    /// A call's deadline when it names none.
    pub timeout: Duration,
    /// The longest deadline a call may ask for.
    pub max_timeout: Duration,
    /// Bytes of one result that reach the model; the rest of a command's output is spooled.
    pub result_bytes: usize,
    /// Calls that may wait; one more is refused.
    pub max_waiting: usize,
    /// Waiting this long counts as one level of priority, so that nobody waits for ever.
    pub aging: Duration,
    /// Compiled argument validators that are kept; 0: compiled at each call.
    pub validators_kept: usize,
    /// Calls that may run as one batch. 1: each runs alone.
    pub max_batch: usize,
    /// How long a call of low priority may wait for company. No other call ever does.
    pub batch_timeout: Duration,
    /// The results that are kept.
    pub cache: CacheLimits,
    /// Whether identical reads in flight share one run.
    pub share_reads: bool,
    /// Whether the registry records what became of calls.
    pub statistics: bool,
    /// Whether it measures what it takes to find out that a kept result still holds.
    pub measured: bool,
}

/// How much a cache may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Values. 0 keeps none.
    pub entries: usize,
    /// The bytes of all values together.
    pub bytes: usize,
    /// The age at which a value is not given any more.
    pub time_to_live: Duration,
}

/// What a profile may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfilingLimits {
    /// The least time between two readings of what the process uses.
    pub monitor_interval: Duration,
}

/// How much each thread may keep of the buffers that it is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Strings and byte buffers. 0 keeps none.
    pub buffers: usize,
    /// Lists of strings. 0 keeps none.
    pub lists: usize,
    /// Values, strings among them, that are looked at in one returned JSON value. 0 keeps none of
    /// their buffers.
    pub strings_of_a_value: usize,
    /// The bytes of the largest buffer that is kept.
    pub buffer_bytes: usize,
    /// The bytes of all that one thread keeps.
    pub thread_bytes: usize,
}

impl PoolLimits {
    /// The limits as shipped.
    pub const FULL: Self = Self {
        buffers: 64,
        lists: 16,
        strings_of_a_value: 32,
        buffer_bytes: 64 * 1024,
        thread_bytes: 1024 * 1024,
    };

    /// Nothing is kept.
    pub const NONE: Self = Self { buffers: 0, lists: 0, strings_of_a_value: 0, ..Self::FULL };
}

/// How much a cache may keep on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Values. 0 keeps none.
    pub entries: usize,
    /// The bytes of all values together. 0 keeps none.
    pub bytes: u64,
}

impl DiskLimits {
    /// Returns whether nothing may be kept.
    pub fn is_zero(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}

/// What a model request may use.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct ClientLimits {
    /// Until the connection stands.
    pub connect: Duration,
    /// From the request sent to the first byte of the answer, at most. Once twenty answers of the
    /// endpoint came, four times what 99 of 100 of them took holds, if it is less.
    pub first_byte: Duration,
    /// The least that multiple comes to.
    pub first_byte_floor: Duration,
    /// Between two chunks of a streamed answer.
    pub gap: Duration,
    /// The whole logical request, retries included.
    pub total: Duration,
    /// Silence that is told to the user, while it lasts, after this long, and again each time that
    /// it has doubled. Zero: never.
    pub silence: Duration,
    /// Attempts of one logical request, the first included.
    pub attempts: u32,
    /// The shortest wait before a second attempt.
    pub backoff: Duration,
    /// Output tokens asked for where the wire demands a number.
    pub max_output_tokens: u32,
    /// Whether somebody chose that number: then it is asked for on every wire.
    pub max_output_chosen: bool,
    /// How fast requests may go out.
    pub rate: RateLimits,
    /// Connections to a server that are kept while nothing goes over them. 0: each request makes
    /// its own.
    pub idle_connections: usize,
    /// How often an HTTP/2 connection that carries a request is asked whether it lives. One that
    /// carries none is not asked: no timer runs while nothing happens.
    pub ping: Duration,
    /// How long it has to answer that.
    pub pong: Duration,
    /// When an endpoint is left alone for another one.
    pub breaker: BreakerLimits,
    /// What the model's tokens cost, if known.
    pub price: Option<Price>,
    /// The share of requests that may be sent a second time when the answer is late to begin, from
    /// 0 to 1.
    pub hedge_budget: f64,
    /// Whether requests may go over plain HTTP to another machine.
    pub plain_http: bool,
    /// Certificates of authorities that are trusted besides the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// How freely the model chooses its words, from 0; the provider's default if not set.
    pub temperature: Option<f32>,
    /// How hard the model should think; nothing is said of it if not set.
    pub effort: Option<Effort>,
    /// The whole answers that are kept for the very same request. No entries: none, on the disk
    /// neither.
    pub answers: CacheLimits,
    /// Those on the disk, for later runs.
    pub answers_on_disk: DiskLimits,
    /// Whether answers are kept at any temperature, and not only at 0.
    pub keep_all_answers: bool,
    /// Identical requests that are on their way at the same time share one, as long as so many
    /// bytes of what it told are kept for whoever comes later. 0: each request is its own.
    pub shared_bytes: usize,
    /// Whether it measures what it takes to read answers.
    pub measured: bool,
}

/// When an endpoint is left alone, where requests may go to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Attempts that failed lately, at least half of all. 0: it never is.
    pub failures: u32,
    /// How long ago is lately.
    pub window: Duration,
    /// How long it is left alone, at first.
    pub open: Duration,
}

/// How fast requests of one account may go out, all sessions of the machine together. What is not
/// bounded here is bounded by what the provider's answers say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Requests that may go at once after a pause; a minute's worth if not set.
    pub burst: Option<u64>,
    /// Input tokens a minute, those out of the provider's cache not counted.
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_tokens_per_minute: Option<u64>,
}

impl RateLimits {
    /// Adds a limit in requests a second, rounded up to whole requests a minute; the lower one
    /// holds, and 0 is none.
    pub fn add_requests_per_second(&mut self, rps: f64) {
        if rps > 0.0 {
            let per_minute = Duration::try_from_secs_f64((rps * 60.0).ceil());
            let per_minute = per_minute.map_or(u64::MAX, |number| number.as_secs()).max(1);
            let other = self.requests_per_minute.unwrap_or(u64::MAX);
            self.requests_per_minute = Some(per_minute.min(other));
        }
    }
}

impl Limits {
    /// Returns the limits with everything on, as shipped.
    pub fn full() -> Self {
        Self {
            state_bytes: 4 << 30,
            agent: AgentLimits {
                max_turns: 100,
                max_wall: None,
                max_tokens: None,
                max_cost_usd: None,
                price: None,
                max_repeats: 8,
                calls_started_mid_stream: usize::MAX,
                measured: false,
                history_window_bytes: 2 * 1024 * 1024,
                max_memory_bytes: 1024 * 1024 * 1024,
                context: ContextLimits {
                    window_tokens: None,
                    answer_tokens: 16_384,
                    compact_at_percent: 80,
                    compact_to_percent: 40,
                },
                // Off: recorded sessions show a gain in time that costs money unless a second is
                // worth some thousand tokens (docs/replay.md).
                attached_tokens: 0,
                instructions_bytes: 16 * 1024,
                checks: CheckLimits {
                    run_cpu: Duration::from_secs(300),
                    cpu: Duration::from_secs(60),
                    wall: Duration::from_secs(60),
                    result_bytes: 2048,
                },
                second_tokens: 2000,
            },
            tools: ToolLimits {
                max_concurrent: 8,
                timeout: Duration::from_secs(120),
                max_timeout: Duration::from_secs(1800),
                result_bytes: 16 * 1024,
                max_waiting: 1024,
                aging: Duration::from_secs(5),
                validators_kept: 16,
                max_batch: 5,
                batch_timeout: Duration::from_millis(100),
                cache: CacheLimits {
                    entries: 128,
                    bytes: 4 * 1024 * 1024,
                    time_to_live: Duration::from_secs(600),
                },
                share_reads: true,
                statistics: true,
                measured: false,
            },
            client: ClientLimits {
                connect: Duration::from_secs(10),
                first_byte: Duration::from_secs(300),
                first_byte_floor: Duration::from_secs(60),
                gap: Duration::from_secs(120),
                total: Duration::from_secs(1800),
                silence: Duration::from_secs(15),
                attempts: 5,
                backoff: Duration::from_millis(500),
                max_output_tokens: 16_384,
                max_output_chosen: false,
                rate: RateLimits::default(),
                idle_connections: 16,
                ping: Duration::from_secs(15),
                pong: Duration::from_secs(10),
                breaker: BreakerLimits {
                    failures: 3,
                    window: Duration::from_secs(60),
                    open: Duration::from_secs(30),
                },
                price: None,
                hedge_budget: 0.0,
                plain_http: false,
                ca_file: None,
                temperature: None,
                effort: None,
                answers: CacheLimits {
                    entries: 64,
                    bytes: 8 * 1024 * 1024,
                    time_to_live: Duration::from_secs(3600),
                },
                answers_on_disk: DiskLimits { entries: 4096, bytes: 64 * 1024 * 1024 },
                keep_all_answers: false,
                shared_bytes: 1024 * 1024,
                measured: false,
            },
            pool: PoolLimits::FULL,
            profiling: ProfilingLimits { monitor_interval: Duration::from_millis(100) },
        }
    }

    /// Returns the limits with every optimization off: the serial loop, from the same code.
    pub fn plain() -> Self {
        let mut limits = Self::full();
        limits.agent.calls_started_mid_stream = 0;
        limits.agent.history_window_bytes = usize::MAX;
        limits.agent.attached_tokens = 0;
        limits.agent.checks.run_cpu = Duration::ZERO;
        limits.tools.max_concurrent = 1;
        limits.tools.max_batch = 1;
        limits.tools.validators_kept = 0;
        limits.tools.cache.entries = 0;
        limits.tools.share_reads = false;
        limits.tools.statistics = false;
        limits.client.idle_connections = 0;
        limits.client.answers.entries = 0;
        limits.client.shared_bytes = 0;
        limits.pool = PoolLimits::NONE;
        limits
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::full()
    }
}
