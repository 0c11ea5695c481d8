// Package images shows that the Dockerfile makes what it says, on machines where no
// engine runs: its build command makes a static program, from what .dockerignore
// leaves, and that program serves and answers its own health check with nothing
// around it but what the image holds.
package images
