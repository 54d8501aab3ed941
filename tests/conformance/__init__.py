"""The conformance suites, held against sound plugins and broken ones."""
