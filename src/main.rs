//! The binary: hands over to the command line.

fn main() -> std::process::ExitCode {
    infinit::cli::main(std::env::args_os())
}
