use super::output::Output;
use crate::model::Device;

/// The option that says where models are computed.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArguments {
    /// Where networks are computed: `cuda` is the first GPU of NVIDIA's, if the program was built for it. Scores may differ there
    /// in their last bits.
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Choice,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Choice {
    #[default]
    Cpu,
    Cuda,
}

impl DeviceArguments {
    /// The device; warns where this program has none like it, which only networks are refused for.
    pub(super) fn device(&self, output: &Output) -> Device {
        match self.device {
            Choice::Cpu => Device::Cpu,
            Choice::Cuda => {
                if !cfg!(feature = "cuda") {
                    output.warn("this program was built without CUDA: `--device cuda` changes nothing for trees, and networks are refused");
                }
                Device::Cuda
            }
        }
    }
}
