//! Writes the malformed images: `malformed DIR` makes a directory in DIR for each case and
//! prints the path of the image to look at.

use backchain_tests::malformed;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1) else {
        eprintln!("usage: malformed DIR");
        return ExitCode::from(2);
    };
    for case in malformed::all() {
        let dir = Path::new(&dir).join(&case.name);
        if let Err(error) = case.write(&dir) {
            eprintln!("{}: {error}", dir.display());
            return ExitCode::FAILURE;
        }
        println!("{}", dir.join(case.image()).display());
    }
    ExitCode::SUCCESS
}
