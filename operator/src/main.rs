//! Start: flags, logs, then the client, both controllers and an orderly end, or a command of a person's.

use binder_operator::chain::chain;
use binder_operator::commands::{self, Command};
use binder_operator::config::{CommandLine, Config, LogFormat};
use binder_operator::controllers;
use binder_operator::heartbeat::Heartbeat;
use binder_operator::machines::Surroundings;
use binder_operator::metrics::Metrics;
use binder_operator::panics;
use binder_operator::serve::{self, Served};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long what is under way may take to end after SIGTERM. Kubernetes kills after 30 s by default; a step that is cut
/// off is found again by its BinderAction.
const LAST_WORDS: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> ExitCode {
    let CommandLine { config, command } = CommandLine::parse();
    // One provider for whatever speaks TLS here; that one is there already is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = tracing_subscriber::EnvFilter::new(&config.log);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    panics::log_only_where();
    let result = match command {
        None => run(config).await,
        Some(Command::Restore(flags)) => restore(&flags).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn restore(flags: &commands::Restore) -> Result<(), Box<dyn std::error::Error>> {
    let restored = commands::restore(flags, |line| println!("{line}")).await?;
    let (documents, collections) = (restored.documents.values().sum::<u64>(), restored.documents.len());
    let compared =
        if restored.checked { "counts and checksums agree with the backup" } else { "counts agree with the files" };
    println!("brought back into {}: {documents} documents in {collections} collections; {compared}", restored.database);
    Ok(())
}

/// Why the operator ends although nobody has told it to.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// Something in it broke.
    #[error(
        "the controllers ended by a defect of this program: nothing is watched over any more, so the process ends too"
    )]
    Broken(#[source] tokio::task::JoinError),
    /// They ended in order, but were not to.
    #[error("the controllers ended, so the process ends too")]
    Controllers(#[from] controllers::Ended),
}

async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let clients = controllers::Clients::connect().await?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let heartbeat = Arc::new(Heartbeat::default());
    let served = Served { metrics: metrics.clone(), ready: ready.clone(), heartbeat: heartbeat.clone() };
    let serving = serve::run(config.listen, served, stop.clone());
    let shared = controllers::Shared { metrics, ready, heartbeat, stop: stop.clone() };
    let surroundings = Surroundings::real(&config);
    let mut controllers = tokio::spawn(controllers::run(clients, config, shared, surroundings));
    tokio::pin!(serving);
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("interrupted: ending"),
        result = &mut serving => {
            stop.cancel();
            result?;
        }
        // An operator that looks at nothing any more must not go on as if it did.
        ended = &mut controllers => {
            stop.cancel();
            ended.map_err(Ended::Broken)?.map_err(Ended::Controllers)?;
            return Ok(());
        }
    }
    stop.cancel();
    match tokio::time::timeout(LAST_WORDS, controllers).await {
        Ok(ended) => ended.map_err(Ended::Broken)?.map_err(Ended::Controllers)?,
        Err(_) => {
            tracing::warn!("a step was still under way; its BinderAction tells, and it is judged after the next start");
        }
    }
    Ok(())
}
