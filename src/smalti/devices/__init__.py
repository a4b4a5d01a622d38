"""Where things are computed: threads, which are chosen before torch is loaded, and devices."""
