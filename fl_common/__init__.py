"""The ground floor: errors, checks, words, files, logs. Imports nothing of ours."""
