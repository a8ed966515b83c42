//! A client that finds its endpoint itself: the settings of the current folder and the user, the
//! environment, and a local server come in, what requests go through comes out.
//! Finds it exactly as the command line does, with the same functions.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Folders, LlmError, OptimizedLLMClient, Routes};
use crate::config::endpoint::NoProvider;
use crate::config::env::Env;
use crate::config::files::{self, SettingsError};
use crate::config::limits::ClientLimits;
use crate::core::journal::Sessions;
use crate::llm::{discover, models};

/// What a program wants of its client, over what the settings say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pool_size: usize,
    cache_size: usize,
    rate_limit_rps: f64,
    burst: usize,
}

impl Wanted {
    fn over(self, limits: &mut ClientLimits) {
        limits.idle_connections = limits.idle_connections.min(self.pool_size);
        limits.answers.entries = limits.answers.entries.min(self.cache_size);
        limits.rate.add_requests_per_second(self.rate_limit_rps);
        if self.rate_limit_rps > 0.0 {
            let burst = (self.burst as u64).max(1);
            limits.rate.burst = Some(limits.rate.burst.map_or(burst, |other| other.min(burst)));
        }
    }
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The current folder cannot be found.
    #[error("the current folder cannot be found: {0}")]
    Folder(#[source] io::Error),
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no provider.
    #[error(transparent)]
    NoProvider(#[from] NoProvider),
    /// The endpoint cannot be used.
    #[error(transparent)]
    Endpoint(#[from] LlmError),
}

impl OptimizedLLMClient {
    /// Returns a client that does not know its endpoint until [`start`](Self::start) is called.
    ///
    /// `pool_size` connections are kept while nothing goes over them, `cache_size` answers
    /// at temperature 0 are kept in memory, `rate_limit_rps` requests go out in a second
    /// (0 or less: no limit of the program's, and no `burst`) and `burst` of them at once after a
    /// pause. The settings hold, too: the lower number wins.
    ///
    /// ```no_run
    /// use vtcode_core::llm::message::LLMRequest;
    /// use vtcode_core::llm::optimized_client::OptimizedLLMClient;
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = OptimizedLLMClient::new(4, 64, 2.0, 10);
    /// client.start().await?;
    /// let answer = client.chat_optimized(LLMRequest::from_prompt("Why is the sky blue?")).await?;
    /// println!("{}", answer.text());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(
        pool_size: usize,
        cache_size: usize,
        rate_limit_rps: impl Into<f64>,
        burst: usize,
    ) -> Self {
        let rate_limit_rps = rate_limit_rps.into();
        let wanted = Wanted { pool_size, cache_size, rate_limit_rps, burst };
        Self { routes: Arc::new(OnceCell::new()), wanted: Some(wanted) }
    }

    /// Finds the endpoint as `vtcode exec` in the current folder does: the folder's and the user's
    /// settings, the environment, then a server of this machine that answers. Rate limits
    /// are shared with the other runs of this user. A client that has started stays
    /// as it is; one whose start failed may be started again. Fails when the current folder cannot
    /// be found, the settings or the file of keys cannot be read or used, no provider is found or
    /// one is not known, or an endpoint cannot be used.
    pub async fn start(&self) -> Result<(), StartError> {
        let folder = std::env::current_dir().and_then(|dir| dir.canonicalize());
        let env = files::with_credentials(Env::of_process())?;
        self.start_in(&folder.map_err(StartError::Folder)?, &env).await
    }

    /// Does the same in another folder, which must be canonical, and environment. Keys are those of
    /// `env` alone: the file of keys is not read. Fails when the settings cannot be read or used,
    /// no provider is found or one is not known, or an endpoint cannot be used.
    pub async fn start_in(&self, folder: &Path, env: &Env) -> Result<(), StartError> {
        self.routes.get_or_try_init(|| self.find(folder, env)).await?;
        Ok(())
    }

    async fn find(&self, folder: &Path, env: &Env) -> Result<Arc<Routes>, StartError> {
        let mut settings = files::settings(folder, Vec::new(), env)?;
        let endpoint = discover::endpoint(&settings, env).await?;
        models::settle(&mut settings, &endpoint);
        if let Some(wanted) = self.wanted {
            wanted.over(&mut settings.limits.client);
        }
        let sessions = env.state_dir().map(|dir| Sessions::below(&dir));
        let rate = sessions.as_ref().map(Sessions::rate_dir);
        let answers = sessions.as_ref().map(Sessions::answers_dir);
        let folders = Folders { rate: rate.as_deref(), answers: answers.as_deref() };
        let fallbacks = discover::fallbacks(&settings, env, &endpoint)?;
        let routes = discover::routes(&settings, endpoint, fallbacks.endpoints);
        Ok(Arc::new(Routes::new(routes, folders)?))
    }
}
