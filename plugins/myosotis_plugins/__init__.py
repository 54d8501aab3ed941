"""The plugins that come with Myosotis; they use what any third party's plugin has, and nothing else."""
