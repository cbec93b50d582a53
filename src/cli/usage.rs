//! What clap has to say, in this program's words: help to stdout, and wrong usage as an error like any other.

use std::error::Error as _;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::ErrorKind;

use crate::base::error::Fault;
use crate::cli::terminal::{Output, Stop, Terminal};

/// Shows help, the version, or what is wrong with the arguments.
pub fn report(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let terminal = terminal(args);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => show(&error.render(), &terminal),
        // Which of the two clap says depends on whether the environment sets an option.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand if !terminal.is_json() => {
            let help = help(args);
            // No argument at all is a question, not a mistake.
            if args.len() <= 1 {
                return show(&help, &terminal);
            }
            terminal.complain(&text(&help, terminal.colored_err()));
            ExitCode::from(2)
        }
        _ => {
            let fault = fault(error, args);
            terminal.fault(&fault);
            ExitCode::from(fault.kind.exit_code())
        }
    }
}

/// Output and colors as asked for in arguments that could not be parsed as a whole.
fn terminal(args: &[OsString]) -> Terminal {
    let given: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--").collect();
    let json = given.contains(&"--output=json") || given.windows(2).any(|pair| pair == ["--output", "json"]);
    let output = if json { Output::Json } else { Output::Table };
    Terminal::new(output, false, 0, given.contains(&"--no-color"))
}

fn show(styled: &StyledStr, terminal: &Terminal) -> ExitCode {
    match terminal.print(&text(styled, terminal.colored())) {
        Ok(()) | Err(Stop::ReaderGone) => ExitCode::SUCCESS,
        Err(Stop::Fault(fault)) => {
            terminal.fault(&fault);
            ExitCode::from(fault.kind.exit_code())
        }
    }
}

fn text(styled: &StyledStr, colored: bool) -> String {
    if colored { styled.ansi().to_string() } else { styled.to_string() }
}

/// The help of the command as far as it was understood.
fn help(args: &[OsString]) -> StyledStr {
    let mut definitions = crate::cli::definitions();
    definitions.build();
    let mut command = &mut definitions;
    for arg in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if command.find_subcommand(arg).is_some() {
            // Looked up twice because a borrow that may end in the old command cannot move to the new one.
            command = command.find_subcommand_mut(arg).expect("it was found just now");
        }
    }
    command.render_help()
}

/// One line that says what is wrong, and a hint: the parser's own, clap's suggestion, or where to read on.
fn fault(error: &clap::Error, args: &[OsString]) -> Fault {
    let text = error.render().to_string();
    let help = format!("see {} --help", command_path(args));
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return Fault::usage(format!("{} needs a verb", command_path(args))).hint(help);
    }
    let mut lines = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let rest: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let tip = rest.iter().find_map(|line| line.strip_prefix("tip: "));
    let details: Vec<&str> = rest
        .iter()
        .copied()
        .filter(|line| !line.starts_with("tip: ") && !line.starts_with("For more information"))
        .collect();
    if !details.is_empty() {
        message = format!("{} {}", message, details.join(", "));
    }
    let own = error.source().and_then(|source| source.downcast_ref::<Fault>());
    let hint = own.and_then(|own| own.hint.clone()).or_else(|| tip.map(ToString::to_string)).unwrap_or(help);
    Fault::usage(message).hint(hint)
}

/// The command as far as it was understood: `infinit volume create`.
fn command_path(args: &[OsString]) -> String {
    let mut path = "infinit".to_owned();
    let definitions = crate::cli::definitions();
    let mut command = &definitions;
    for arg in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if let Some(found) = command.find_subcommand(arg) {
            path = format!("{path} {}", found.get_name());
            command = found;
        }
    }
    path
}
