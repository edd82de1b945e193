//! Writes the generated CustomResourceDefinitions beside the types and into the chart.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = match binder_crds::schema::files() {
        Ok(files) => files,
        Err(error) => {
            eprintln!("cannot write the definitions as YAML: {error}");
            return ExitCode::FAILURE;
        }
    };
    for folder in [root.join("yaml"), root.join("../charts/binder-operator/crds")] {
        for (name, content) in &files {
            let path = folder.join(name);
            if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, content)) {
                eprintln!("cannot write `{}`: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
