//! PostgreSQL: a primary and two standbys, one of which must have a commit before it is acknowledged.

use super::{Client, Programs, System, ports, run, unprivileged, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres::{NoTls, Statement};

/// The primary is the first of the processes.
pub(super) struct Postgres {
    primary: u16,
    /// `synchronous_commit` of the clients.
    commit: &'static str,
    processes: Vec<Process>,
}

/// What runs PostgreSQL's programs.
struct Runner {
    folder: PathBuf,
    libraries: Option<PathBuf>,
    user: User,
}

impl Runner {
    fn command(&self, name: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = command(&self.folder.join(name), self.libraries.as_deref(), &self.user, arguments);
        // Its user may not be allowed where the bench was started.
        command.current_dir("/");
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Result<()> {
        run(name, self.command(name, arguments))
    }
}

impl Postgres {
    pub(super) async fn start(programs: &Programs, directory: &Path, commit: &'static str) -> Result<Self> {
        let (initdb, libraries) = programs.find("initdb")?;
        // A link in PATH may be the only one of its folder.
        let folder = initdb.canonicalize()?.parent().context("initdb lies nowhere")?.to_owned();
        let runner = Runner { folder, libraries, user: unprivileged("postgres") };
        let home = directory.join("postgres");
        std::fs::create_dir(&home)?;
        if let User::Named(name) = &runner.user {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
            let mut chown = std::process::Command::new("chown");
            chown.arg(format!("{name}:")).arg(&home);
            run("chown", chown)?;
        }
        let ports = ports::<3>()?;
        let primary = ports[0];
        let data: Vec<String> = (0..3).map(|at| home.join(format!("n{at}")).display().to_string()).collect();
        runner.run("initdb", &["-D", &data[0], "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "-N"])?;
        let mut processes = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let port = port.to_string();
            if at > 0 {
                let from = primary.to_string();
                let source =
                    ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-X", "stream", "-c", "fast", "-N", "-R"];
                runner.run("pg_basebackup", &[&source[..], &["-D", &data[at]]].concat())?;
            }
            let name = format!("cluster_name=n{at}");
            let sockets = format!("unix_socket_directories={}", home.display());
            let mut arguments = vec!["-D", &data[at], "-h", "127.0.0.1", "-p", &port, "-c", &name, "-c", &sockets];
            // No checkpoint within a round: that helps it.
            arguments.extend(["-c", "max_connections=200", "-c", "max_wal_size=8GB", "-c", "shared_buffers=512MB"]);
            let log = directory.join(format!("n{at}.log"));
            processes.push(Process::start(runner.command("postgres", &arguments), Signal::QUIT, log)?);
            until_ready(&mut processes, async || connect(ports[at]).await.map(drop)).await?;
        }
        let client = connect(primary).await?;
        client.batch_execute("CREATE TABLE pairs (key text PRIMARY KEY, value bytea)").await?;
        client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (n1, n2)'").await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        until_ready(&mut processes, async || {
            let asked = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'";
            let standbys: i64 = client.query_one(asked, &[]).await?.get(0);
            ensure!(standbys == 2, "{standbys} of 2 standbys");
            Ok(())
        })
        .await?;
        Ok(Self { primary, commit, processes })
    }
}

async fn connect(port: u16) -> Result<tokio_postgres::Client> {
    let options = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl System for Postgres {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, _: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>> {
        Box::pin(async move {
            let client = connect(self.primary).await?;
            client.batch_execute(&format!("SET synchronous_commit = {}", self.commit)).await?;
            let text = "INSERT INTO pairs VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            let put = client.prepare(text).await?;
            Ok(Arc::new(Connection { client, put }) as Arc<dyn Client>)
        })
    }
}

struct Connection {
    client: tokio_postgres::Client,
    put: Statement,
}

impl Client for Connection {
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let rows = self.client.execute(&self.put, &[&key, &value]).await?;
            ensure!(rows == 1, "{rows} rows instead of one");
            Ok(())
        })
    }
}
