//! Manual pages from the definitions: one for each noun, with a section a verb, and the overview.

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;

use crate::cli::man::overview;

/// A page of section 1, in roff.
pub struct Page {
    pub name: String,
    pub text: String,
}

/// The overview first, then a page for each noun.
pub fn all(definitions: &Command) -> Vec<Page> {
    let mut pages = vec![Page { name: "infinit".to_owned(), text: overview_page(definitions) }];
    let nouns = definitions.get_subcommands().filter(|command| !command.is_hide_set());
    pages.extend(nouns.map(|noun| Page { name: format!("infinit-{}", noun.get_name()), text: noun_page(noun) }));
    pages
}

fn overview_page(definitions: &Command) -> String {
    let mut text = title("infinit");
    text.push_str(&name_section("infinit", definitions));
    text.push_str(
        ".SH SYNOPSIS\n.B infinit\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIverb\\fR] [\\fIoptions\\fR]\n",
    );
    text.push_str(overview::DESCRIPTION);
    text.push_str(".SH COMMANDS\n");
    for noun in definitions.get_subcommands().filter(|command| !command.is_hide_set()) {
        text.push_str(&format!(".TP\n\\fBinfinit\\-{}\\fR(1)\n{}\n", escaped(noun.get_name()), about(noun)));
    }
    text.push_str(".SH GLOBAL OPTIONS\n");
    text.push_str(&options(definitions));
    text.push_str(overview::SECTIONS);
    text
}

fn noun_page(noun: &Command) -> String {
    let name = format!("infinit-{}", noun.get_name());
    let path = format!("infinit {}", noun.get_name());
    let verbs: Vec<&Command> = noun.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let mut text = title(&name);
    text.push_str(&name_section(&name, noun));
    text.push_str(".SH SYNOPSIS\n");
    if verbs.is_empty() {
        text.push_str(&synopsis(&path, noun));
        text.push_str(".SH OPTIONS\n");
        text.push_str(&options(noun));
    } else {
        let lines: Vec<String> =
            verbs.iter().map(|verb| synopsis(&format!("{path} {}", verb.get_name()), verb)).collect();
        text.push_str(&lines.join(".br\n"));
        text.push_str(".SH VERBS\n");
    }
    for verb in verbs {
        text.push_str(&format!(".SS {}\n{}\n{}", escaped(verb.get_name()), about(verb), more_about(verb)));
        text.push_str(&options(verb));
    }
    text.push_str(overview::SEE_ALSO);
    text
}

fn title(name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {} 1 \"\" \"infinit {version}\" \"Infinit\"\n", escaped(name))
}

fn name_section(name: &str, command: &Command) -> String {
    format!(".SH NAME\n{} \\- {}\n", escaped(name), about(command))
}

fn about(command: &Command) -> String {
    command.get_about().map(|about| escaped(&about.to_string())).unwrap_or_default()
}

/// What stands below the first paragraph of a verb's description.
fn more_about(command: &Command) -> String {
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    long.split("\n\n").skip(1).map(|paragraph| format!(".PP\n{}\n", escaped(&paragraph.replace('\n', " ")))).collect()
}

/// A usage line with every option: first what must be given.
fn synopsis(path: &str, command: &Command) -> String {
    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_global_set()).collect();
    let words: Vec<String> = shown
        .iter()
        .filter(|arg| arg.is_positional())
        .chain(shown.iter().filter(|arg| !arg.is_positional() && arg.is_required_set()))
        .chain(shown.iter().filter(|arg| !arg.is_positional() && !arg.is_required_set()))
        .map(|arg| synopsis_word(arg))
        .collect();
    format!(".B {}\n{}\n", escaped(path), words.join(" ")).replace("\n\n", "\n")
}

fn synopsis_word(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value = if takes_value && !value.is_empty() { format!("\\fI{}\\fR", escaped(&value)) } else { String::new() };
    let word = match arg.get_long() {
        None => value,
        Some(long) if value.is_empty() => format!("\\fB\\-\\-{}\\fR", escaped(long)),
        Some(long) => format!("\\fB\\-\\-{}\\fR {value}", escaped(long)),
    };
    let word = if arg.is_required_set() { word } else { format!("[{word}]") };
    if matches!(arg.get_action(), ArgAction::Append) { format!("{word}...") } else { word }
}

/// The list of a command's options, by clap_mangen, without its heading and clap's own `--help`.
fn options(command: &Command) -> String {
    let command = command.clone().disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true);
    if !command.get_arguments().any(|arg| !arg.is_hide_set()) {
        return String::new();
    }
    let mut roff = Vec::new();
    // Writing to memory cannot fail; an empty list would be seen by the test of the pages.
    let _ = Man::new(command).render_options_section(&mut roff);
    let text = String::from_utf8_lossy(&roff);
    let lines =
        text.lines().filter(|line| !line.starts_with(".SH") && !line.starts_with(".ie") && !line.starts_with(".el"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Text without what roff would take for its own: backslashes, hyphens, and control characters at a line's start.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_and_option_stands_in_a_page() {
        let definitions = crate::cli::definitions();
        let pages = all(&definitions);
        let page = |name: &str| &pages.iter().find(|page| page.name == name).unwrap().text;
        for noun in definitions.get_subcommands() {
            let text = page(&format!("infinit-{}", noun.get_name()));
            for command in noun.get_subcommands().chain([noun]) {
                for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                    let word = arg.get_long().map_or_else(|| arg.get_value_names().unwrap()[0].to_string(), escaped);
                    assert!(text.contains(&word), "{word} of {} is missing", command.get_name());
                    let help = arg.get_help().unwrap().to_string();
                    let word = help.split([' ', '\'']).next().unwrap();
                    assert!(text.contains(word), "{help} is missing");
                }
            }
        }
        for section in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "\\-\\-home"] {
            assert!(page("infinit").contains(section), "{section} is missing");
        }
    }
}
