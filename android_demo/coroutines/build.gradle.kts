import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.kotlin.jvm)
    alias(libs.plugins.dokka)
    `maven-publish`
}

java {
    sourceCompatibility = JavaVersion.VERSION_17
    targetCompatibility = JavaVersion.VERSION_17
    withSourcesJar()
}

kotlin {
    explicitApi()
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

publishing {
    publications {
        register<MavenPublication>("release") {
            from(components["java"])
            pom {
                name = "edgeb coroutines"
                description = "Suspending predictions and a flow of suggestions, for edgeb core"
                licenses { license { name = "Apache-2.0" } }
            }
        }
    }
}

dependencies {
    api(project(":core"))
    api(libs.kotlinx.coroutines)
    testImplementation(libs.junit)
}
