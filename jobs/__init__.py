"""What runs on the login node: experiment -> plan -> array jobs -> status -> reduce. Imports without torch."""
