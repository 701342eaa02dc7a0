//! `holdfastctl`: reads its command line and its settings, and runs the command.

use std::io::Write as _;
use std::process::ExitCode;

use holdfast_ctl::args::Args;
use holdfast_ctl::output::Output;
use holdfast_ctl::settings::Settings;
use holdfast_ctl::{audit, exit};
use holdfast_service::settings::Source;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::from_process();
    audit::init(args.verbose);
    let settings = match Settings::read(Source::from_process()) {
        Ok(settings) => settings,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let mut stdout = std::io::stdout().lock();
    let mut output = Output::new(&mut stdout, args.json);
    let result = holdfast_ctl::run(args.command, &settings, &mut output).await;
    let result = result.and_then(|verdict| Ok(stdout.flush().map(|()| verdict)?));
    if let Err(error) = &result
        && !exit::reader_left(error)
    {
        eprintln!("holdfastctl: {error:#}");
    }
    ExitCode::from(exit::code(&result))
}
