//! `infinit network join`.

use std::io::Read;

use clap::Args;

use crate::base::error::{Fault, plain};
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::offline::{self, Joining};

/// The longest token read from stdin, bytes: far beyond any that is printed.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Join a network with a token that `infinit network invite` printed
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Present this token; - reads it from stdin
    #[arg(value_name = "TOKEN")]
    token: String,
}

impl JoinArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let token = match self.token.as_str() {
            "-" => read_token()?,
            given => given.to_owned(),
        };
        let token = token.trim();
        if token.is_empty() {
            return Err(Fault::usage("the token is empty").hint("on a member: infinit network invite").into());
        }
        let spinner = context.terminal.spinner("joining".to_owned());
        let joined = offline::join(&context.place()?, token).await;
        spinner.finish_and_clear();
        let network = match joined? {
            Joining::Joined(network) => network,
            Joining::Already(network) => {
                context.terminal.note(&format!(
                    "this machine is a member of network {} ({}) already, as node {}: nothing was done",
                    network.name,
                    network.id.short(),
                    network.node.name
                ));
                return context.terminal.show(&network, String::new);
            }
        };
        context.terminal.note(&format!(
            "joined network {} ({}) as node {}",
            network.name,
            network.id.short(),
            network.node.name
        ));
        super::hint_start(context, &network).await?;
        context.terminal.show(&network, String::new)
    }
}

fn read_token() -> Result<String, Fault> {
    let mut token = String::new();
    std::io::stdin()
        .lock()
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut token)
        .map_err(|error| Fault::failed(format!("cannot read the token from stdin: {}", plain(&error))))?;
    Ok(token)
}
